// Package nn holds the layers and KV caches that model files are made of.
package nn

import "forge.lthn.ai/core/go-mlx/internal/metal"

// Linear is x W^T + b, with W [out, in] plain or quantised. The weights belong to the model's scope.
type Linear struct {
	transposed *metal.Array // plain: a view of W as [in, out]
	bias       *metal.Array // [out], or nil
	quantized
}

// quantized is a packed weight with its scales and biases.
type quantized struct {
	packed, scales, biases *metal.Array
	format                 metal.Quantization
}

// NewLinear wraps a plain weight [out, in].
func NewLinear(s *metal.Scope, weight *metal.Array) *Linear {
	return &Linear{transposed: s.Transpose(weight, 1, 0)}
}

// NewQuantizedLinear wraps a quantised weight.
func NewQuantizedLinear(packed, scales, biases *metal.Array, q metal.Quantization) *Linear {
	return &Linear{quantized: quantized{packed, scales, biases, q}}
}

// WithBias is the layer with a bias [out].
func (l *Linear) WithBias(bias *metal.Array) *Linear {
	biased := *l
	biased.bias = bias
	return &biased
}

// Apply maps x [..., in] to [..., out].
func (l *Linear) Apply(s *metal.Scope, x *metal.Array) *metal.Array {
	switch {
	case l.transposed == nil && l.bias == nil:
		return s.QuantizedMatmul(x, l.packed, l.scales, l.biases, l.format)
	case l.transposed == nil:
		return s.Add(s.QuantizedMatmul(x, l.packed, l.scales, l.biases, l.format), l.bias)
	case l.bias == nil:
		return s.Matmul(x, l.transposed)
	}
	return s.AddMM(l.bias, x, l.transposed)
}

// Embedding maps token ids to rows of a table [vocab, hidden], plain or quantised.
type Embedding struct {
	weight *metal.Array // plain
	quantized
	logits *Linear
}

// NewEmbedding wraps a plain table.
func NewEmbedding(s *metal.Scope, weight *metal.Array) *Embedding {
	return &Embedding{weight: weight, logits: NewLinear(s, weight)}
}

// NewQuantizedEmbedding wraps a quantised table.
func NewQuantizedEmbedding(packed, scales, biases *metal.Array, q metal.Quantization) *Embedding {
	return &Embedding{quantized: quantized{packed, scales, biases, q}, logits: NewQuantizedLinear(packed, scales, biases, q)}
}

// Lookup returns the rows of ids [...] as [..., hidden].
func (e *Embedding) Lookup(s *metal.Scope, ids *metal.Array) *metal.Array {
	if e.weight != nil {
		return s.Take(e.weight, ids, 0)
	}
	return s.Dequantize(s.Take(e.packed, ids, 0), s.Take(e.scales, ids, 0), s.Take(e.biases, ids, 0), e.format)
}

// AsLinear is the table used as the output layer: [..., hidden] to [..., vocab].
func (e *Embedding) AsLinear(s *metal.Scope, x *metal.Array) *metal.Array {
	return e.logits.Apply(s, x)
}
