package decoder

import (
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// cpuDecoder runs a decoder with the CPU kernels: a pass is one op, or seven ops a layer where something is added to layers or their
// results are looked at; the bits are the same. Between kernels states are kept in the model's type and everything else in float32.
type cpuDecoder struct {
	*decoderSpec
	whole     *mlxc.Decoder
	head      mlxc.Layer
	table     mlxc.Layer
	scale     float32 // of embeddings
	rotations []mlxc.RoPE
	rotation  []int // of each layer
	windows   []int // the different ones
	window    []int // of each layer
}

func newCPUDecoder(spec *decoderSpec, s *mlxc.Scope) (*cpuDecoder, error) {
	d := &cpuDecoder{decoderSpec: spec, head: spec.output().Layer(), table: spec.embed.Output().Layer(), scale: 1}
	if spec.embedScale != 0 {
		d.scale = roundToBFloat16(float32(spec.embedScale)) // as in training
	}
	var layers []mlxc.DecoderLayer
	for i := range spec.layers {
		l := &spec.layers[i]
		d.rotation = append(d.rotation, indexOrAppend(&d.rotations, l.rope))
		d.window = append(d.window, indexOrAppend(&d.windows, l.window))
		layers = append(layers, mlxc.DecoderLayer{
			Q: l.q.Layer(), K: l.k.Layer(), V: l.v.Layer(), O: l.o.Layer(), Gate: l.gate.Layer(), Up: l.up.Layer(), Down: l.down.Layer(),
			InputNorm: l.inputNorm, PreMLPNorm: l.preMLPNorm, PostAttentionNorm: l.postAttentionNorm, PostMLPNorm: l.postMLPNorm,
			QNorm: l.qNorm, KNorm: l.kNorm, Rotation: d.rotation[i], Window: d.window[i],
		})
	}
	var err error
	d.whole, err = s.NewDecoder(mlxc.DecoderSpec{
		Attention: mlxc.Attention{Heads: d.heads, KVHeads: d.kvHeads, HeadDim: d.headDim, Eps: d.eps, Scale: d.attentionScale},
		Table:     d.table, EmbedScale: d.scale, Norm: d.norm, Gate: d.gate, Clip: d.clips(),
		Rotations: d.rotations, Windows: len(d.windows), Layers: layers,
	})
	return d, err
}

// Close frees the op's description of the layers.
func (d *cpuDecoder) Close() {
	if d != nil {
		d.whole.Close()
	}
}

// adapted reports whether a layer has something added to it.
func (d *cpuDecoder) adapted() bool {
	for i := range d.layers {
		l := &d.layers[i]
		for _, part := range [...]*nn.Linear{l.q, l.k, l.v, l.o, l.gate, l.up, l.down} {
			if part.Adapted() {
				return true
			}
		}
	}
	return false
}

// indexOrAppend is where v is in list, which it is appended to if need be.
func indexOrAppend[T comparable](list *[]T, v T) int {
	if i := slices.Index(*list, v); i >= 0 {
		return i
	}
	*list = append(*list, v)
	return len(*list) - 1
}

func roundToBFloat16(f float32) float32 {
	bits := math.Float32bits(f)
	return math.Float32frombits((bits + 0x7fff + bits>>16&1) &^ 0xffff)
}

// Hidden runs the layers on token ids [rows, tokens] and returns the normed states [rows, tokens, hidden].
func (d *cpuDecoder) Hidden(s *mlxc.Scope, ids *mlxc.Array, seenBy *kv.Pass) *mlxc.Array {
	if seenBy.Observe != nil || seenBy.Kernel.Stepwise || d.adapted() {
		return d.opByOp(s, ids, seenBy)
	}
	pass := seenBy.Kernel
	whole := mlxc.DecoderPass{Positions: pass.Positions, Keep: pass.Keep != nil}
	for _, window := range d.windows {
		whole.Visible = append(whole.Visible, pass.Visible(window)...)
	}
	for i := range d.layers {
		whole.Past = append(whole.Past, pass.Past(s, i))
	}
	x, kept := s.Decode(d.whole, ids, whole)
	if pass.Keep != nil {
		for i := range d.layers {
			pass.Keep(s, i, kept[i])
		}
	}
	return x
}

// Logits maps states [..., hidden] to [..., vocab], in float32.
func (d *cpuDecoder) Logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array {
	return s.Apply(h, mlxc.NoGate, true, false, d.head)
}

// layerwise is what the layers of a pass by single ops have in common.
type layerwise struct {
	*cpuDecoder
	seenBy             *kv.Pass
	rotations, visible []*mlxc.Array // of each kind of layer
	dtype              mlxc.DType
}

// many reports whether products are those of passes that keep nothing, as in a pass by one op.
func (p *layerwise) many() bool { return p.seenBy.Kernel.Keep == nil }

// opByOp is hidden by single ops.
func (d *cpuDecoder) opByOp(s *mlxc.Scope, ids *mlxc.Array, seenBy *kv.Pass) *mlxc.Array {
	pass := seenBy.Kernel
	p := &layerwise{cpuDecoder: d, seenBy: seenBy, dtype: d.norm.DType()}
	positions := s.FromInts(pass.Positions, pass.Rows, pass.Tokens)
	for _, rope := range d.rotations {
		p.rotations = append(p.rotations, pass.Shared(s, s.Rotation(positions, rope)))
	}
	for _, window := range d.windows {
		p.visible = append(p.visible, pass.Shared(s, s.FromInts(pass.Visible(window), pass.Rows, pass.Tokens, mlxc.VisibleSize)))
	}
	h := s.Lookup(d.table, ids, d.scale, p.dtype)
	seenBy.Seen(0, kv.OpInput, h)
	x := s.Norm(h, d.layers[0].inputNorm, d.eps)
	for i := range d.layers {
		h, x = pass.RunLayer(s, i, h, x, func(s *mlxc.Scope, h, x *mlxc.Array) (sum, normed *mlxc.Array) { return p.layer(s, i, h, x) })
	}
	return x
}

// layer takes states and their norm through a layer, and returns both after it.
func (p *layerwise) layer(s *mlxc.Scope, i int, h, x *mlxc.Array) (sum, normed *mlxc.Array) {
	d, pass, l := p.cpuDecoder, p.seenBy.Kernel, &p.layers[i]
	p.seenBy.Seen(i, kv.OpInputNorm, x)
	qkv := p.project(s, x, l.q, l.k, l.v)
	attended, kept := s.Attend(mlxc.Attention{
		Heads: d.heads, KVHeads: d.kvHeads, HeadDim: d.headDim, Eps: d.eps, Scale: d.attentionScale,
		Neighbours: l.rope.Traditional, QNorm: l.qNorm, KNorm: l.kNorm, DType: p.dtype,
	}, qkv, p.rotations[d.rotation[i]], p.visible[d.window[i]], pass.Past(s, i), pass.Keep != nil)
	if pass.Keep != nil {
		pass.Keep(s, i, kept)
	}
	y := p.project(s, attended, l.o)
	p.seenBy.Seen(i, kv.OpAttention, y)
	h, x = s.AddNorm(h, y, l.postAttentionNorm, l.preMLPNorm, d.eps, d.clips())
	y = p.project(s, p.gated(s, x, l), l.down)
	p.seenBy.Seen(i, kv.OpMLP, y)
	next := d.norm
	if i+1 < len(d.layers) {
		next = d.layers[i+1].inputNorm
	}
	h, x = s.AddNorm(h, y, l.postMLPNorm, next, d.eps, d.clips())
	p.seenBy.Seen(i, kv.OpOutput, h)
	return h, x
}

// project is the layers' outputs one after the other, in float32.
func (p *layerwise) project(s *mlxc.Scope, x *mlxc.Array, layers ...*nn.Linear) *mlxc.Array {
	many := p.many()
	parts, added := make([]mlxc.Layer, len(layers)), make([]mlxc.LoRA, len(layers))
	adapted := false
	for i, l := range layers {
		parts[i], added[i] = l.Layer(), l.Added(s)
		adapted = adapted || l.Adapted()
	}
	if !adapted {
		return s.Apply(x, mlxc.NoGate, true, many, parts...)
	}
	return s.Adapted(x, many, parts, added)
}

// gated is the input of the MLP's last layer.
func (p *layerwise) gated(s *mlxc.Scope, x *mlxc.Array, l *decoderLayer) *mlxc.Array {
	if l.gate.Adapted() || l.up.Adapted() {
		return s.GateHalves(p.project(s, x, l.gate, l.up), p.gate, x.DType())
	}
	return s.Apply(x, p.gate, false, p.many(), l.gate.Layer(), l.up.Layer())
}
