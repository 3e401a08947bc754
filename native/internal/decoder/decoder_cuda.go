package decoder

import (
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// FusedDecoder runs the layers of a decoder with the kernels of package fused: half as many kernels as
// with MLX's ops one by one.
type FusedDecoder struct {
	Kernels *fused.Kernels
	layers  []fusedLayer
	norm    *mlxc.Array // after the last layer
}

type fusedLayer struct {
	*decoderLayer
	qkv, gateUp *nn.Linear // q, k and v joined, and gate and up
	rotation    fused.Rotation
}

// fuseLayers returns nil if the kernels cannot run the model: not on this device, not in this shape, or not
// with weights of several types or packings. Otherwise the joined weights are all that is left of their parts.
func fuseLayers(w *checkpoint.Weights, spec *decoderSpec, lease *mlxc.Lease) (_ *FusedDecoder, err error) {
	if !w.Fuse || len(w.Problems) > 0 || !w.Uniform() || spec.layers[0].rope.Traditional {
		return nil, nil
	}
	shape := fused.Shape{
		Heads: spec.heads, KVHeads: spec.kvHeads, HeadDim: spec.headDim, HiddenSize: spec.hiddenSize, Intermediate: spec.intermediate,
		QKNorm: spec.layers[0].qNorm != nil, PostNorm: spec.postNorm(), GELU: spec.gate == mlxc.GELUGate,
		RMSNormEps: spec.eps, AttentionScale: spec.attentionScale, DType: spec.norm.DType(),
	}
	if !shape.Fits() {
		return nil, nil
	}
	for _, l := range spec.layers {
		if !nn.Alike(l.q, l.k, l.v) || !nn.Alike(l.gate, l.up) {
			return nil, nil
		}
	}
	d := &FusedDecoder{layers: make([]fusedLayer, len(spec.layers)), norm: spec.norm}
	if d.Kernels, err = fused.New(w.Scope, lease, shape); err != nil {
		return nil, err
	}
	for i := range d.layers {
		l := &spec.layers[i]
		d.layers[i] = fusedLayer{l, w.Join(l.q, l.k, l.v), w.Join(l.gate, l.up), d.Kernels.NewRotation(w.Scope, l.rope)}
	}
	return d, nil
}

// run takes h [B, T, hidden] through all layers and returns it normed.
func (d *FusedDecoder) run(s *mlxc.Scope, h *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	positions := pass.Positions(s, h.Dim(0), h.Dim(1))
	rows := h.Dim(0)
	pass.Seen(0, kv.OpInput, h)
	for i := range d.layers {
		h = pass.RunLayer(s, i, h, func(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array { return d.layer(s, i, h, rows, positions, pass) })
	}
	return s.Slice(h, 0, rows, 2*rows)
}

// layer takes what goes into a layer, the embedding [B, T, hidden] or what the layer before put out, to what it puts out: its sums, and after
// them the same normed for what comes next, [2 B, T, hidden].
func (d *FusedDecoder) layer(s *mlxc.Scope, i int, h *mlxc.Array, rows int, positions *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	l, next := &d.layers[i], d.norm
	if i+1 < len(d.layers) {
		next = d.layers[i+1].inputNorm
	}
	var x *mlxc.Array
	if i == 0 {
		x = s.RMSNorm(h, l.inputNorm, d.Kernels.Shape().RMSNormEps)
	} else {
		x = s.Slice(h, 0, rows, 2*rows)
	}
	q, k, v := d.Kernels.NormRope(s, d.Kernels.Project(s, x, l.qkv), l.qNorm, l.kNorm, positions, l.rotation)
	attended := pass.Attend(s, i, q, k, v, d.Kernels.Shape().AttentionScale)
	h, x = d.Kernels.AddNorm(s, h, d.Kernels.Project(s, attended, l.o), l.postAttentionNorm, l.preMLPNorm)
	h, _ = d.Kernels.AddNorm(s, h, d.Kernels.Project(s, d.Kernels.Gate(s, d.Kernels.Project(s, x, l.gateUp)), l.down), l.postMLPNorm, next)
	pass.Seen(i, kv.OpOutput, d.Kernels.Sums(s, h))
	return h
}

// Close frees the kernels.
func (d *FusedDecoder) Close() {
	if d != nil {
		d.Kernels.Close()
	}
}

// cudaKernels is a FusedDecoder with the parts that MLX's ops compute: the embedding and the output layer.
type cudaKernels struct {
	layers *FusedDecoder
	exact  *exactDecoder
}

// Hidden runs the layers on token ids [B, T] and returns the normed states [B, T, hidden].
func (k cudaKernels) Hidden(s *mlxc.Scope, ids *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	table := k.exact.embed.Output().Plain()
	if table == nil {
		return k.layers.run(s, k.exact.lookup(s, ids), pass)
	}
	return k.layers.run(s, k.layers.Kernels.Rows(s, table, ids, k.exact.scale), pass)
}

// Logits maps states [..., hidden] to [..., vocab].
func (k cudaKernels) Logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array {
	if packed, _, _, _ := k.exact.output().Quantized(); packed == nil {
		return k.exact.Logits(s, h)
	}
	shape := h.Shape()
	rows := k.layers.Kernels.Project(s, s.Reshape(h, 1, -1, k.exact.hiddenSize), k.exact.output())
	return s.Reshape(rows, append(shape[:len(shape)-1:len(shape)-1], k.exact.vocabSize)...)
}
