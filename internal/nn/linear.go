// Package nn holds the layers and KV caches that model files are made of.
package nn

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// Linear is x W^T + b, with W [out, in] plain or quantised. The weights belong to the model's scope.
type Linear struct {
	weight     *mlxc.Array // plain
	transposed *mlxc.Array // plain: a view of W as [in, out]
	bias       *mlxc.Array // [out], or nil
	lora       *LoRA       // nil without
	quantized
}

// quantized is a packed weight with its scales and biases. For the CPU kernels they may be interleaved, and those of a GGUF file may have no
// biases, groups of 16, or scales of another type than what the model computes in: MLX's own ops get them unpacked.
type quantized struct {
	packed, scales, biases *mlxc.Array
	format                 mlxc.Quantization
}

// forKernels reports whether MLX's ops for a type cannot compute with the weights as they are.
func (q *quantized) forKernels(dtype mlxc.DType) bool {
	return q.packed != nil && (q.format.Interleaved || q.biases == nil || q.format.GroupSize == 16 || q.scales.DType() != dtype)
}

// rows are the weights of some rows in a type, by the CPU kernels.
func (q *quantized) rows(s *mlxc.Scope, ids *mlxc.Array, dtype mlxc.DType) *mlxc.Array {
	return s.Lookup(mlxc.Layer{Weights: q.packed, Scales: q.scales, Biases: q.biases, Format: q.format}, ids, 1, dtype)
}

// all are all rows.
func (q *quantized) all(s *mlxc.Scope, dtype mlxc.DType) *mlxc.Array {
	return q.rows(s, s.Arange(0, q.packed.Dim(0), mlxc.Int32), dtype)
}

// NewLinear wraps a plain weight [out, in].
func NewLinear(s *mlxc.Scope, weight *mlxc.Array) *Linear {
	return &Linear{weight: weight, transposed: s.Transpose(weight, 1, 0)}
}

// NewQuantizedLinear wraps a quantised weight.
func NewQuantizedLinear(packed, scales, biases *mlxc.Array, q mlxc.Quantization) *Linear {
	return &Linear{quantized: quantized{packed, scales, biases, q}}
}

// WithBias is the layer with a bias [out].
func (l *Linear) WithBias(bias *mlxc.Array) *Linear {
	biased := *l
	biased.bias = bias
	return &biased
}

// Apply maps x [..., in] to [..., out].
func (l *Linear) Apply(s *mlxc.Scope, x *mlxc.Array) *mlxc.Array {
	y := l.plain(s, x)
	if l.lora == nil {
		return y
	}
	return l.lora.add(s, x, y)
}

func (l *Linear) plain(s *mlxc.Scope, x *mlxc.Array) *mlxc.Array {
	transposed := l.transposed
	if l.forKernels(x.DType()) {
		transposed = s.Transpose(l.all(s, x.DType()), 1, 0)
	}
	switch {
	case transposed == nil && l.bias == nil:
		return s.QuantizedMatmul(x, l.packed, l.scales, l.biases, l.format)
	case transposed == nil:
		return s.Add(s.QuantizedMatmul(x, l.packed, l.scales, l.biases, l.format), l.bias)
	case l.bias == nil:
		return s.Matmul(x, transposed)
	}
	return s.AddMM(l.bias, x, transposed)
}

// Embedding maps token ids to rows of a table [vocab, hidden], plain or quantised.
type Embedding struct {
	weight *mlxc.Array // plain
	quantized
	logits *Linear
}

// NewEmbedding wraps a plain table.
func NewEmbedding(s *mlxc.Scope, weight *mlxc.Array) *Embedding {
	return &Embedding{weight: weight, logits: NewLinear(s, weight)}
}

// NewQuantizedEmbedding wraps a quantised table.
func NewQuantizedEmbedding(packed, scales, biases *mlxc.Array, q mlxc.Quantization) *Embedding {
	return &Embedding{quantized: quantized{packed, scales, biases, q}, logits: NewQuantizedLinear(packed, scales, biases, q)}
}

// Lookup returns the rows of ids [...] as [..., hidden]. dtype is the type in which the model computes.
func (e *Embedding) Lookup(s *mlxc.Scope, ids *mlxc.Array, dtype mlxc.DType) *mlxc.Array {
	if e.weight != nil {
		return s.Take(e.weight, ids, 0)
	}
	if e.forKernels(dtype) {
		return e.rows(s, ids, dtype)
	}
	return s.Dequantize(s.Take(e.packed, ids, 0), s.Take(e.scales, ids, 0), s.Take(e.biases, ids, 0), e.format)
}

// Output is the table used as the output layer: [..., hidden] to [..., vocab].
func (e *Embedding) Output() *Linear { return e.logits }

// Alike reports whether layers can be joined: all plain, or all packed in one format, with or without bias.
func Alike(layers ...*Linear) bool {
	first := layers[0]
	for _, l := range layers {
		if l.format != first.format || (l.bias == nil) != (first.bias == nil) {
			return false
		}
	}
	return true
}

// Join returns layers of one input and one packing as a single layer whose output is theirs, one after
// the other, and the arrays that it is made of: they are not needed once it is computed.
func Join(s *mlxc.Scope, layers ...*Linear) (whole *Linear, parts []*mlxc.Array) {
	join := func(of func(l *Linear) *mlxc.Array) *mlxc.Array {
		var arrays []*mlxc.Array
		for _, l := range layers {
			if a := of(l); a != nil {
				arrays = append(arrays, a)
			}
		}
		if len(arrays) < len(layers) {
			return nil
		}
		parts = append(parts, arrays...)
		return s.Concatenate(0, arrays...)
	}
	whole = &Linear{
		bias: join(func(l *Linear) *mlxc.Array { return l.bias }),
		quantized: quantized{
			packed: join(func(l *Linear) *mlxc.Array { return l.packed }),
			scales: join(func(l *Linear) *mlxc.Array { return l.scales }),
			biases: join(func(l *Linear) *mlxc.Array { return l.biases }),
			format: layers[0].format,
		},
	}
	if weight := join(func(l *Linear) *mlxc.Array { return l.weight }); weight != nil {
		whole.weight, whole.transposed = weight, s.Transpose(weight, 1, 0)
	}
	for _, l := range layers {
		if l.transposed != nil {
			parts = append(parts, l.transposed)
		}
	}
	return whole, parts
}

// Dims are the layer's input and output sizes.
func (l *Linear) Dims() (in, out int) {
	if l.weight != nil {
		return l.weight.Dim(1), l.weight.Dim(0)
	}
	return l.packed.Dim(1) * 32 / l.format.Bits, l.packed.Dim(0)
}

// Layer is the layer's weights for the CPU kernels, without its LoRA.
func (l *Linear) Layer() mlxc.Layer {
	if l.weight != nil {
		return mlxc.Layer{Weights: l.weight, Bias: l.bias}
	}
	return mlxc.Layer{Weights: l.packed, Scales: l.scales, Biases: l.biases, Bias: l.bias, Format: l.format}
}

// Adapted reports whether the layer has a LoRA.
func (l *Linear) Adapted() bool { return l.lora != nil }

// Added is the layer's LoRA for the CPU kernels, which take float32; nothing without one.
func (l *Linear) Added(s *mlxc.Scope) mlxc.LoRA {
	if l.lora == nil {
		return mlxc.LoRA{}
	}
	float := func(a *mlxc.Array) *mlxc.Array {
		if a.DType() == mlxc.Float32 {
			return a
		}
		return s.AsType(a, mlxc.Float32)
	}
	return mlxc.LoRA{A: float(l.lora.A), B: float(l.lora.B), Scale: l.lora.Scale}
}

// Adapt adds a LoRA to the layer, in place of one that it may have; nil takes it away.
func (l *Linear) Adapt(lora *LoRA) { l.lora = lora }

// Plain is the weight [out, in] of a layer that is neither quantised nor has a bias, or nil.
func (l *Linear) Plain() *mlxc.Array {
	if l.bias != nil {
		return nil
	}
	return l.weight
}

// Quantized is the weights of a quantised layer without bias, or nil: packed [out, in*bits/32], scales and biases
// [out, in/group_size].
func (l *Linear) Quantized() (packed, scales, biases *mlxc.Array, format mlxc.Quantization) {
	if l.bias != nil {
		return nil, nil, nil, mlxc.Quantization{}
	}
	return l.packed, l.scales, l.biases, l.format
}

// Arrays are the layer's weights.
func (l *Linear) Arrays() []*mlxc.Array {
	var out []*mlxc.Array
	for _, a := range []*mlxc.Array{l.weight, l.transposed, l.bias, l.packed, l.scales, l.biases} {
		if a != nil {
			out = append(out, a)
		}
	}
	return out
}
