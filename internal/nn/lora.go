package nn

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// LoRA is a trained addition to a layer: y + scale x A B, with A [in, rank] and B [rank, out] (Hu et al. 2021,
// arXiv:2106.09685). As in mlx-lm the scale is a factor as it is, not divided by the rank. It does not own its arrays.
type LoRA struct {
	A, B  *mlxc.Array
	Scale float32
}

// add is y with the addition for x, which is computed in the type of A and B and rounded to that of x.
func (l *LoRA) add(s *mlxc.Scope, x, y *mlxc.Array) *mlxc.Array {
	z := s.Matmul(s.Matmul(x, l.A), l.B)
	return s.Add(y, s.AsType(s.Multiply(s.Scalar(float64(l.Scale), z.DType()), z), x.DType()))
}
