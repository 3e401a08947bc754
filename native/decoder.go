package native

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// decoderSpec describes a dense decoder: grouped-query attention, a gated MLP, RMSNorm before both and, in some families, behind
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
	norm   *mlxc.Array // behind the last layer
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

func (d *decoderSpec) shape() modelShape {
	windows := make([]int, len(d.layers))
	for i, l := range d.layers {
		windows[i] = l.window
	}
	return modelShape{hiddenSize: d.hiddenSize, vocabSize: d.vocabSize, heads: d.heads, kvHeads: d.kvHeads, headDim: d.headDim,
		intermediate: d.intermediate, windows: windows, bidirectional: d.bidirectional}
}

// decoder is a decoder that can compute, in one of three ways: with MLX's ops in mlx-lm's order, with the CUDA kernels
// of package fused, or with the CPU kernels.
type decoder struct {
	decoderSpec
	exact *exactDecoder
	cuda  *fusedDecoder // nil where its kernels cannot run; then its joined weights have replaced the layers' own
	cpu   *cpuDecoder   // nil where its kernels do not run
}

// newDecoder chooses the kernels and reads the weights.
func newDecoder(spec decoderSpec, w *weights, lease *mlxc.Lease) (*decoder, error) {
	d := &decoder{decoderSpec: spec}
	var err error
	if d.cuda, err = w.fuseLayers(&d.decoderSpec, lease); err != nil {
		return d, err
	}
	if err := w.finish(); err != nil {
		return d, err
	}
	if d.exact, err = newExactDecoder(&d.decoderSpec, w.scope, lease, d.cuda == nil); err != nil {
		return d, err
	}
	if w.kernels {
		d.cpu, err = newCPUDecoder(&d.decoderSpec, w.scope)
	}
	return d, err
}

func (d *decoder) shape() modelShape {
	shape := d.decoderSpec.shape()
	shape.fused, shape.kernels = d.cuda, d.cpu != nil
	return shape
}

// hidden runs the layers on token ids [B, T] and returns the normed states [B, T, hidden].
func (d *decoder) hidden(s *mlxc.Scope, ids *mlxc.Array, st state) *mlxc.Array {
	if d.cpu != nil {
		if pass := passOf(st, ids.Dim(0), ids.Dim(1)); pass != nil {
			return d.cpu.hidden(s, ids, st, pass)
		}
	}
	if d.cuda != nil {
		table := d.embed.Output().Plain()
		if table == nil {
			return d.cuda.run(s, d.exact.lookup(s, ids), st)
		}
		return d.cuda.run(s, d.cuda.kernels.Rows(s, table, ids, d.exact.scale), st)
	}
	return d.exact.run(s, d.exact.lookup(s, ids), st)
}

// logits maps states [..., hidden] to [..., vocab], float32 with the CPU kernels.
func (d *decoder) logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array {
	if d.cpu != nil {
		return s.Apply(h, mlxc.NoGate, true, d.cpu.head)
	}
	if packed, _, _, _ := d.output().Quantized(); d.cuda != nil && packed != nil {
		shape := h.Shape()
		rows := d.cuda.kernels.Project(s, s.Reshape(h, 1, -1, d.hiddenSize), d.output())
		return s.Reshape(rows, append(shape[:len(shape)-1:len(shape)-1], d.vocabSize)...)
	}
	return d.output().Apply(s, h)
}

// output is the output layer.
func (d *decoderSpec) output() *nn.Linear {
	if d.head != nil {
		return d.head
	}
	return d.embed.Output()
}

func (d *decoder) close() error {
	if d == nil {
		return nil
	}
	d.cuda.close()
	d.cpu.close()
	return d.exact.close()
}
