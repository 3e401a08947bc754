package nn

import "forge.lthn.ai/core/go-mlx/internal/metal"

// LoRA is a trained addition to a layer: y + scale x A B, with A [in, rank] and B [rank, out] (Hu et al. 2021,
// arXiv:2106.09685). As in mlx-lm the scale is a factor as it is, not divided by the rank. It does not own its arrays.
type LoRA struct {
	A, B  *metal.Array
	Scale float32
}

// add is y with the addition for x, which is computed in the type of A and B and rounded to that of x.
func (l *LoRA) add(s *metal.Scope, x, y *metal.Array) *metal.Array {
	z := s.Matmul(s.Matmul(x, l.A), l.B)
	return s.Add(y, s.AsType(s.Multiply(s.Scalar(float64(l.Scale), z.DType()), z), x.DType()))
}

// addition is scale x A B in float32 by the CPU kernels, whose weights are [out, in].
func (l *LoRA) addition(s *metal.Scope, x *metal.Array) *metal.Array {
	layer := func(a *metal.Array) metal.Layer { return metal.Layer{Weights: s.Transpose(a, 1, 0)} }
	z := s.Apply(s.Apply(x, metal.NoGate, true, layer(l.A)), metal.NoGate, true, layer(l.B))
	return s.Multiply(z, s.Scalar(float64(l.Scale), metal.Float32))
}
