package decoder

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// A pass of single tokens is traced once and then repeated: building a graph of some three hundred ops costs the host
// more than the GPU needs for a token. It needs fixed shapes, so the KV caches give it whole buffers, with
// the place to write and the number of positions held as arrays; the CUDA kernels read these on the GPU. MLX
// keeps one trace for each set of shapes: caches grow by blocks.

// layerKinds numbers the kinds of layers: those of one window share their places.
type layerKinds struct {
	of    []int // kind of each layer
	First []int // first layer of each kind
}

func kindsOf(windows []int) layerKinds {
	var k layerKinds
	for layer, window := range windows {
		kind := slices.IndexFunc(k.First, func(first int) bool { return windows[first] == window })
		if kind < 0 {
			kind = len(k.First)
			k.First = append(k.First, layer)
		}
		k.of = append(k.of, kind)
	}
	return k
}

// TokenPass is a pass of one token of each of B sequences over whole KV buffers. ids are uint32 [B, 1]; where, int32
// [1 + 2 kinds, B], is the tokens' positions, then for each kind of layer where to write and how many positions are held
// then; buffers are every layer's keys and values [B, kv_heads, room, head_dim]. It returns the logits [B, vocab], and
// the keys and values with the tokens' written.
func (n *Network) TokenPass(s *mlxc.Scope, ids, where *mlxc.Array, buffers []*mlxc.Array) (logits *mlxc.Array, written []*mlxc.Array) {
	in := append([]*mlxc.Array{ids, where}, buffers...)
	var out []*mlxc.Array
	if n.steps != nil {
		out = n.steps.Call(s, in...)
	} else {
		out = n.traceTokens(s, in)
	}
	if len(out) != 1+len(buffers) {
		return ids, buffers // the error is latched
	}
	return out[0], out[1:]
}

// traceTokens is TokenPass in the form that can be compiled.
func (n *Network) traceTokens(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	ids, where, buffers := in[0], in[1], in[2:]
	rows := ids.Dim(0)
	row := func(i int) *mlxc.Array { return s.Slice(where, 0, i, i+1) }
	st := &tokenMemory{fused: n.CUDA, kinds: n.Kinds, buffers: slices.Clone(buffers)}
	for kind, first := range n.Kinds.First {
		st.at = append(st.at, s.Reshape(row(1+2*kind), rows, 1, 1, 1))
		filled := row(2 + 2*kind)
		if st.fused != nil {
			st.filled = append(st.filled, filled)
			continue
		}
		room := buffers[2*first].Dim(2)
		held := s.Less(s.Reshape(s.Arange(0, room, mlxc.Int32), 1, 1, 1, room), s.Reshape(filled, rows, 1, 1, 1))
		st.masks = append(st.masks, mlxc.Mask{Array: held})
	}
	logits := s.Squeeze(n.Arch.Logits(s, n.Arch.Hidden(s, ids, &kv.Pass{Starts: s.Reshape(row(0), rows), Memory: st})), 1)
	return append([]*mlxc.Array{logits}, st.buffers...)
}

// tokenMemory is the memory of a TokenPass.
type tokenMemory struct {
	fused   *FusedDecoder
	kinds   layerKinds
	at      []*mlxc.Array // of each kind, int32 [B, 1, 1, 1]
	filled  []*mlxc.Array // of each kind, int32 [B]; for the fused kernels
	masks   []mlxc.Mask   // of each kind; for MLX's own attention
	buffers []*mlxc.Array
}

// Attend writes the tokens' positions.
func (st *tokenMemory) Attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	kind := st.kinds.of[layer]
	keys, values := &st.buffers[2*layer], &st.buffers[2*layer+1]
	*keys = s.PutAlong(*keys, st.at[kind], k, -2)
	*values = s.PutAlong(*values, st.at[kind], v, -2)
	if st.fused != nil {
		return s.Reshape(st.fused.Kernels.AttendFilled(s, q, *keys, *values, st.filled[kind]), q.Dim(0), 1, -1)
	}
	return kv.MergeHeads(s, s.SDPA(q, *keys, *values, scale, st.masks[kind]))
}

// compiledStep takes one token into a state by the compiled pass, if there is one for the state; otherwise ok is false.
func (n *Network) compiledStep(s *mlxc.Scope, st *kv.Sequence, ids *mlxc.Array) (logits *mlxc.Array, ok bool) {
	if n.steps == nil || st.Position() == 0 {
		return nil, false
	}
	caches := make([]kv.Slotted, len(st.Caches))
	for i, c := range st.Caches {
		if caches[i], ok = c.(kv.Slotted); !ok {
			return nil, false
		}
	}
	where := []int32{int32(st.Position())}
	var buffers []*mlxc.Array
	for i, c := range caches {
		keys, values, at := c.Slot(s)
		buffers = append(buffers, keys, values)
		if n.Kinds.First[n.Kinds.of[i]] == i {
			where = append(where, int32(at.At), int32(at.Filled))
		}
	}
	logits, buffers = n.TokenPass(s, ids, s.FromInts(where, len(where), 1), buffers)
	for i, c := range caches {
		c.Fill(s, buffers[2*i], buffers[2*i+1])
	}
	return logits, true
}
