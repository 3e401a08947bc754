package native

import (
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// Passes that are traced once and then repeated: building a graph of some three hundred ops costs the host
// more than the GPU needs for a token. They need fixed shapes, so the KV caches give them whole buffers, with
// the place to write and the number of positions held as arrays; the fused kernels read these on the GPU. MLX
// keeps one trace for each set of shapes: caches grow by blocks, texts are padded to blocks.

// compiledPasses are the compiled functions of a model with fused kernels. The owner closes them.
type compiledPasses struct {
	step   *metal.Function // one token of one sequence
	packed *metal.Function // several texts behind a shared prefix
	kinds  layerKinds
}

// fusedState is what states of passes with fused kernels have in common.
type fusedState struct{ decoder *fusedDecoder }

func (fusedState) rope(s *metal.Scope, x *metal.Array, _ metal.RoPE) *metal.Array {
	s.Fail(errors.New("rope: positions are the fused kernels' affair"))
	return x
}

func (fusedState) observe(*metal.Scope, int, *metal.Array) {}

// compilePasses returns nil for a model without fused kernels.
func (n *network) compilePasses() (_ *compiledPasses, err error) {
	if n.shape.fused == nil {
		return nil, nil
	}
	c := &compiledPasses{kinds: kindsOf(n.shape.windows)}
	if c.step, err = n.lease.Compile(false, n.traceStep); err != nil {
		return nil, err
	}
	if c.packed, err = n.lease.Compile(false, n.tracePacked); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *compiledPasses) close() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.step.Close(), c.packed.Close())
}

// slotState is one token of one sequence over whole cache buffers.
type slotState struct {
	fusedState
	position     *metal.Array // int32 [1]
	at, filled   []*metal.Array
	keys, values []*metal.Array
	kinds        layerKinds
}

// layerKinds numbers the kinds of layers: those of one window share their places.
type layerKinds struct {
	of    []int // kind of each layer
	first []int // first layer of each kind
}

func kindsOf(windows []int) layerKinds {
	var k layerKinds
	for layer, window := range windows {
		kind := slices.IndexFunc(k.first, func(first int) bool { return windows[first] == window })
		if kind < 0 {
			kind = len(k.first)
			k.first = append(k.first, layer)
		}
		k.of = append(k.of, kind)
	}
	return k
}

// traceStep takes the token, uint32 [1, 1], the places, int32 [1 + 2 kinds]: its position, then for each kind of
// layer where to write and how many positions are held then; and every layer's keys and values. It returns
// the logits [1, vocab] and the keys and values with the token's written.
func (n *network) traceStep(s *metal.Scope, in []*metal.Array) []*metal.Array {
	place := func(i int) *metal.Array { return s.Slice(in[1], 0, i, i+1) }
	kinds := kindsOf(n.shape.windows)
	st := &slotState{fusedState: fusedState{n.shape.fused}, position: place(0), kinds: kinds}
	for kind := range kinds.first {
		st.at = append(st.at, s.Reshape(place(1+2*kind), 1, 1, 1, 1))
		st.filled = append(st.filled, place(2+2*kind))
	}
	for i := range n.shape.windows {
		st.keys, st.values = append(st.keys, in[2+2*i]), append(st.values, in[3+2*i])
	}
	logits := s.Squeeze(n.arch.logits(s, n.arch.hidden(s, in[0], st)), 1)
	out := []*metal.Array{logits}
	for i := range st.keys {
		out = append(out, st.keys[i], st.values[i])
	}
	return out
}

func (st *slotState) positions(*metal.Scope, int, int) *metal.Array { return st.position }

func (st *slotState) attend(s *metal.Scope, layer int, q, k, v *metal.Array, _ float32) *metal.Array {
	kind := st.kinds.of[layer]
	st.keys[layer] = s.PutAlong(st.keys[layer], st.at[kind], k, -2)
	st.values[layer] = s.PutAlong(st.values[layer], st.at[kind], v, -2)
	attended := st.decoder.kernels.AttendFilled(s, q, st.keys[layer], st.values[layer], st.filled[kind])
	return s.Reshape(attended, 1, 1, -1)
}

// compiledStep runs the compiled step, if there is one for the state; otherwise ok is false.
func (n *network) compiledStep(s *metal.Scope, st *decodeState, ids *metal.Array) (logits *metal.Array, ok bool) {
	if n.passes == nil || st.position() == 0 {
		return nil, false
	}
	caches := make([]nn.Slotted, len(st.caches))
	for i, c := range st.caches {
		if caches[i], ok = c.(nn.Slotted); !ok {
			return nil, false
		}
	}
	places := []int32{int32(st.position())}
	in := make([]*metal.Array, 2, 2+2*len(caches))
	in[0] = ids
	for i, c := range caches {
		slot := c.Slot(s)
		in = append(in, slot.Keys, slot.Values)
		if n.passes.kinds.first[n.passes.kinds.of[i]] == i {
			places = append(places, int32(slot.At), int32(slot.Filled))
		}
	}
	in[1] = s.FromInts(places, len(places))
	out := n.passes.step.Call(s, in...)
	if len(out) != 1+2*len(caches) {
		return ids, true // the error is latched
	}
	for i, c := range caches {
		c.Fill(s, out[1+2*i], out[2+2*i])
	}
	return out[0], true
}
