// Package decoder is the forward pass: one dense decoder, described by a spec which each family of models reads from its config, computed by
// MLX's own ops, by the CPU kernels, or by the CUDA kernels.
package decoder

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// decoderSpec describes a dense decoder: grouped-query attention, a gated MLP, RMSNorm before both and, in some families, after
// both. A family is a reader of its config that fills one in.
type decoderSpec struct {
	hiddenSize, vocabSize, heads, kvHeads, headDim, intermediate int

	eps            float32   // of every norm
	attentionScale float32   // of attention scores
	gate           mlxc.Gate // activation of the MLP
	embedScale     float64   // what embeddings are multiplied by; 0 for nothing
	bidirectional  bool      // tokens see later ones too: for embeddings, not for text

	embed  *nn.Embedding
	layers []decoderLayer
	norm   *mlxc.Array // after the last layer
	head   *nn.Linear  // nil: the embedding is the output layer
}

type decoderLayer struct {
	inputNorm, preMLPNorm          *mlxc.Array
	postAttentionNorm, postMLPNorm *mlxc.Array // of what a block puts out; nil without
	q, k, v, o, gate, up, down     *nn.Linear
	qNorm, kNorm                   *mlxc.Array // nil without
	rope                           mlxc.RoPE
	window                         int // sliding window, 0 for full attention
}

// postNorm reports whether what a block puts out is normed before it is added.
func (d *decoderSpec) postNorm() bool { return d.layers[0].postAttentionNorm != nil }

// clips reports whether sums must be kept in float16's range: Gemma's activations exceed it.
func (d *decoderSpec) clips() bool { return d.postNorm() && d.norm.DType() == mlxc.Float16 }

func (d *decoderSpec) shape() Shape {
	windows := make([]int, len(d.layers))
	for i, l := range d.layers {
		windows[i] = l.window
	}
	element := int64(2)
	if d.norm.DType() == mlxc.Float32 {
		element = 4
	}
	return Shape{
		HiddenSize: d.hiddenSize, VocabSize: d.vocabSize, heads: d.heads, intermediate: d.intermediate, Bidirectional: d.bidirectional,
		Layout: kv.Layout{Windows: windows, KVHeads: d.kvHeads, HeadDim: d.headDim, ElementSize: element, Attention: (*mlxc.Scope).SDPA},
	}
}

// kernels is a way to compute a decoder: MLX's ops in mlx-lm's order, the CPU kernels, or the CUDA kernels of package fused.
type kernels interface {
	// Hidden runs the layers on token ids [B, T] and returns the normed states [B, T, hidden].
	Hidden(s *mlxc.Scope, ids *mlxc.Array, pass *kv.Pass) *mlxc.Array
	// Logits maps states [..., hidden] to [..., vocab].
	Logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array
}

// decoder is a decoder that can compute. Its kernels are chosen once, while it is loaded.
type decoder struct {
	decoderSpec
	kernels               // the quickest that can run the model
	exact   *exactDecoder // of every model, for passes that the others do not take
	cuda    *FusedDecoder // nil where its kernels cannot run; then its joined weights have replaced the layers' own
	cpu     *cpuDecoder   // nil where its kernels do not run
}

// newDecoder chooses the kernels and reads the weights.
func newDecoder(spec decoderSpec, w *checkpoint.Weights, lease *mlxc.Lease) (*decoder, error) {
	d := &decoder{decoderSpec: spec}
	var err error
	if d.cuda, err = fuseLayers(w, &d.decoderSpec, lease); err != nil {
		return d, err
	}
	if err := w.Finish(); err != nil {
		return d, err
	}
	if d.exact, err = newExactDecoder(&d.decoderSpec, w.Scope, lease, d.cuda == nil); err != nil {
		return d, err
	}
	switch {
	case w.Kernels:
		d.cpu, err = newCPUDecoder(&d.decoderSpec, w.Scope)
		d.kernels = d.cpu
	case d.cuda != nil:
		d.kernels = cudaKernels{d.cuda, d.exact}
	default:
		d.kernels = d.exact
	}
	return d, err
}

func (d *decoder) shape() Shape {
	shape := d.decoderSpec.shape()
	if shape.Rings = d.cpu != nil; d.cuda != nil {
		shape.Attention, shape.Joined = d.cuda.Kernels.Attention, true
	}
	return shape
}

// Hidden runs the layers. A pass for MLX's ops goes to these.
func (d *decoder) Hidden(s *mlxc.Scope, ids *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	if d.cpu != nil && pass.Kernel == nil {
		return d.exact.Hidden(s, ids, pass)
	}
	return d.kernels.Hidden(s, ids, pass)
}

// output is the output layer.
func (d *decoderSpec) output() *nn.Linear {
	if d.head != nil {
		return d.head
	}
	return d.embed.Output()
}

// Close frees what the weights' scope does not own.
func (d *decoder) Close() error {
	if d == nil {
		return nil
	}
	d.cuda.Close()
	d.cpu.Close()
	return d.exact.Close()
}
