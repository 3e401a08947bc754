package native

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// decodeState is one sequence under generation: a KV cache for each layer.
type decodeState struct {
	caches []nn.KVCache
	masks  []metal.Mask
}

func newDecodeState(shape modelShape) *decodeState {
	st := &decodeState{masks: make([]metal.Mask, len(shape.windows))}
	for _, window := range shape.windows {
		if window > 0 {
			st.caches = append(st.caches, nn.NewRotatingCache(window))
		} else {
			st.caches = append(st.caches, nn.NewFullCache())
		}
	}
	return st
}

// begin prepares a pass of n tokens. Layers of one kind share their mask.
func (st *decodeState) begin(s *metal.Scope, n int, windows []int) {
	shared := map[int]metal.Mask{}
	for i, window := range windows {
		mask, ok := shared[window]
		if !ok {
			mask = st.caches[i].Mask(s, n)
			shared[window] = mask
		}
		st.masks[i] = mask
	}
}

// rope takes the first cache's offset: within a pass, a layer rotates before it updates its cache, and
// layers run in order, so the layer under way still has the offset of the pass's first token.
func (st *decodeState) rope(s *metal.Scope, x *metal.Array, p metal.RoPE) *metal.Array {
	return s.RoPE(x, p, st.caches[len(st.caches)-1].Offset())
}

func (st *decodeState) update(s *metal.Scope, layer int, keys, values *metal.Array) (k, v *metal.Array) {
	return st.caches[layer].Update(s, keys, values)
}

func (st *decodeState) mask(layer int) metal.Mask { return st.masks[layer] }

func (st *decodeState) observe(*metal.Scope, int, *metal.Array) {}

func (st *decodeState) arrays() []*metal.Array {
	var out []*metal.Array
	for _, c := range st.caches {
		out = append(out, c.Arrays()...)
	}
	return out
}

func (st *decodeState) bytes() int64 {
	var n int64
	for _, c := range st.caches {
		n += c.Bytes()
	}
	return n
}

func (st *decodeState) free() error {
	var errs []error
	for _, c := range st.caches {
		errs = append(errs, c.Free())
	}
	return errors.Join(errs...)
}

// history is the keys and values of positions that many rows share or extend, layer by layer. Nothing
// is overwritten: sliding windows are a matter of masks.
type history struct {
	keys, values []*metal.Array // [B, kv_heads, length, head_dim]
	length       int
}

func (h *history) bytes() int64 {
	var n int64
	for i := range h.keys {
		n += int64(h.keys[i].NBytes() + h.values[i].NBytes())
	}
	return n
}

func (h *history) free() error {
	var errs []error
	for i := range h.keys {
		errs = append(errs, h.keys[i].Free(), h.values[i].Free())
	}
	h.keys, h.values = nil, nil
	return errors.Join(errs...)
}

// scoreState is one pass of rows over a history, as classification needs it. It remembers the keys and
// values that layers see, so that a later pass can go on from them.
type scoreState struct {
	past   *history
	offset *metal.Array // position of each row's first token [B], or nil when all begin at past.length
	masks  []metal.Mask
	seen   history
}

// newScoreState prepares a pass in which every row continues past with n tokens. Rows may be padded
// behind their end: no real token attends to what comes after it.
func newScoreState(s *metal.Scope, past *history, n int, windows []int) *scoreState {
	st := &scoreState{past: past, masks: make([]metal.Mask, len(windows))}
	shared := map[int]metal.Mask{}
	for i, window := range windows {
		mask, ok := shared[window]
		if !ok {
			mask = metal.Mask{Causal: n > 1}
			if window > 0 && past.length+n > window {
				mask = metal.Mask{Array: nn.CausalMask(s, n, past.length, window)}
			}
			shared[window] = mask
		}
		st.masks[i] = mask
	}
	return st
}

// newRaggedState prepares a pass of n tokens for each row, where row b continues after its own lengths[b]
// positions of past and the rest of past is padding.
func newRaggedState(s *metal.Scope, past *history, lengths []int, n int, windows []int) *scoreState {
	st := &scoreState{past: past, masks: make([]metal.Mask, len(windows))}
	starts := make([]int32, len(lengths))
	for b, length := range lengths {
		starts[b] = int32(length)
	}
	st.offset = s.FromInts(starts, len(starts))
	shared := map[int]metal.Mask{}
	for i, window := range windows {
		mask, ok := shared[window]
		if !ok {
			mask = metal.Mask{Array: raggedMask(s, past.length, lengths, n, window)}
			shared[window] = mask
		}
		st.masks[i] = mask
	}
	return st
}

// raggedMask is [B, 1, n, past+n]: token t of row b is at position lengths[b]+t and sees row b's real
// past and its own earlier tokens, as far as the window reaches.
func raggedMask(s *metal.Scope, past int, lengths []int, n, window int) *metal.Array {
	total := past + n
	visible := make([]bool, len(lengths)*n*total)
	for b, length := range lengths {
		for t := range n {
			row := visible[(b*n+t)*total:][:total]
			position := length + t
			for key := range row {
				at, real := key, key < length
				if key >= past {
					at, real = length+key-past, key-past <= t
				}
				row[key] = real && (window == 0 || position < at+window)
			}
		}
	}
	return s.FromBools(visible, len(lengths), 1, n, total)
}

func (st *scoreState) rope(s *metal.Scope, x *metal.Array, p metal.RoPE) *metal.Array {
	if st.offset != nil {
		return s.RoPEAt(x, p, st.offset)
	}
	return s.RoPE(x, p, st.past.length)
}

func (st *scoreState) update(s *metal.Scope, layer int, keys, values *metal.Array) (k, v *metal.Array) {
	if st.past.length > 0 {
		join := func(past, added *metal.Array) *metal.Array {
			if past.Dim(0) != added.Dim(0) { // one past for all rows
				past = s.BroadcastTo(past, added.Dim(0), past.Dim(1), past.Dim(2), past.Dim(3))
			}
			return s.Concatenate(2, past, added)
		}
		keys, values = join(st.past.keys[layer], keys), join(st.past.values[layer], values)
	}
	st.seen.keys, st.seen.values = append(st.seen.keys, keys), append(st.seen.values, values)
	st.seen.length = keys.Dim(2)
	return keys, values
}

func (st *scoreState) mask(layer int) metal.Mask { return st.masks[layer] }

func (st *scoreState) observe(*metal.Scope, int, *metal.Array) {}
