package native

import (
	"errors"
	"fmt"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// fusedDecoder runs the layers of a decoder with the kernels of package fused: half as many kernels as
// with MLX's ops one by one.
type fusedDecoder struct {
	kernels *fused.Kernels
	layers  []fusedLayer
	norm    *mlxc.Array // behind the last layer
}

type fusedLayer struct {
	*decoderLayer
	qkv, gateUp *nn.Linear // q, k and v joined, and gate and up
	rotation    fused.Rotation
}

// fuseLayers returns nil if the kernels cannot run the model: not on this device, not in this shape, or not
// with weights of several types or packings. Otherwise the joined weights are all that is left of their parts.
func (w *weights) fuseLayers(spec *decoderSpec, lease *mlxc.Lease) (_ *fusedDecoder, err error) {
	if !w.fuse || len(w.problems) > 0 || !w.uniform() || spec.layers[0].rope.Traditional {
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
	d := &fusedDecoder{layers: make([]fusedLayer, len(spec.layers)), norm: spec.norm}
	if d.kernels, err = fused.New(w.scope, lease, shape); err != nil {
		return nil, err
	}
	for i := range d.layers {
		l := &spec.layers[i]
		d.layers[i] = fusedLayer{l, w.join(l.q, l.k, l.v), w.join(l.gate, l.up), d.kernels.NewRotation(w.scope, l.rope)}
	}
	return d, nil
}

// uniform reports whether all that is not packed is of one floating type.
func (w *weights) uniform() bool {
	types := map[string]bool{}
	for name, t := range w.headers {
		if w.relevant(name) && t.DType != "U32" {
			types[t.DType] = true
		}
	}
	return len(types) == 1
}

// attention is what the caches compute with.
func (d *fusedDecoder) attention() nn.Attention {
	if d == nil {
		return (*mlxc.Scope).SDPA
	}
	return d.kernels.Attention
}

// run takes h [B, T, hidden] through all layers and returns it normed.
func (d *fusedDecoder) run(s *mlxc.Scope, h *mlxc.Array, st state) *mlxc.Array {
	positions := st.positions(s, h.Dim(0), h.Dim(1))
	st.observe(s, 0, opInput, h)
	x := s.RMSNorm(h, d.layers[0].inputNorm, d.kernels.Shape().RMSNormEps)
	for i := range d.layers {
		l := &d.layers[i]
		q, k, v := d.kernels.NormRope(s, d.kernels.Project(s, x, l.qkv), l.qNorm, l.kNorm, positions, l.rotation)
		attended := st.attend(s, i, q, k, v, d.kernels.Shape().AttentionScale)
		h, x = d.kernels.AddNorm(s, h, d.kernels.Project(s, attended, l.o), l.postAttentionNorm, l.preMLPNorm)
		next := d.norm
		if i+1 < len(d.layers) {
			next = d.layers[i+1].inputNorm
		}
		h, x = d.kernels.AddNorm(s, h, d.kernels.Project(s, d.kernels.Gate(s, d.kernels.Project(s, x, l.gateUp)), l.down), l.postMLPNorm, next)
		st.observe(s, i, opOutput, d.kernels.Sums(s, h))
	}
	return x
}

func (d *fusedDecoder) close() {
	if d != nil {
		d.kernels.Close()
	}
}

// join is tensors that are one behind the other when the weights are read.
type join struct{ whole, parts []*mlxc.Array }

// join notes that layers are to be read as one.
func (w *weights) join(layers ...*nn.Linear) *nn.Linear {
	whole, parts := nn.Join(w.scope, layers...)
	w.joins = append(w.joins, join{whole.Arrays(), parts})
	return whole
}

// readJoins makes the joined layers one by one and drops their parts, so that no more than one of them is
// held twice.
func (w *weights) readJoins() error {
	for _, j := range w.joins {
		if err := w.scope.Eval(j.whole...); err != nil {
			return fmt.Errorf("join weights: %w", err)
		}
		var errs []error
		for _, a := range j.parts {
			errs = append(errs, w.scope.Keep(a).Free())
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}
