package native

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// history is the keys and values of positions that many rows share or extend, layer by layer: a state for the CPU kernels, or else
// arrays in which nothing is overwritten and sliding windows are a matter of masks.
type history struct {
	state        *decodeState  // nil without CPU kernels
	keys, values []*mlxc.Array // [B, kv_heads, length, head_dim]
	length       int
}

func (h *history) bytes() int64 {
	var n int64
	if h.state != nil {
		n = h.state.bytes()
	}
	for i := range h.keys {
		n += int64(h.keys[i].NBytes() + h.values[i].NBytes())
	}
	return n
}

func (h *history) free() error {
	var errs []error
	if h.state != nil {
		errs = append(errs, h.state.free())
	}
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
	offset *mlxc.Array // position of each row's first token [B], or nil when all begin at past.length
	masks  []mlxc.Mask
	seen   history
}

// newScoreState prepares a pass in which every row continues past with n tokens. Rows may be padded
// behind their end: no real token attends to what comes after it.
func newScoreState(s *mlxc.Scope, past *history, n int, windows []int) *scoreState {
	st := &scoreState{past: past, masks: make([]mlxc.Mask, len(windows))}
	fillMasks(st.masks, windows, func(_, window int) mlxc.Mask {
		if window > 0 && past.length+n > window {
			return mlxc.Mask{Array: nn.CausalMask(s, n, past.length, window)}
		}
		return mlxc.Mask{Causal: n > 1}
	})
	return st
}

// newRaggedState prepares a pass of n tokens for each row, where row b continues after its own lengths[b]
// positions of past and the rest of past is padding.
func newRaggedState(s *mlxc.Scope, past *history, lengths []int, n int, windows []int) *scoreState {
	st := &scoreState{past: past, masks: make([]mlxc.Mask, len(windows))}
	starts := make([]int32, len(lengths))
	for b, length := range lengths {
		starts[b] = int32(length)
	}
	st.offset = s.FromInts(starts, len(starts))
	fillMasks(st.masks, windows, func(_, window int) mlxc.Mask {
		return mlxc.Mask{Array: raggedMask(s, past.length, lengths, n, window)}
	})
	return st
}

// raggedMask is [B, 1, n, past+n]: token t of row b is at position lengths[b]+t and sees row b's real
// past and its own earlier tokens, as far as the window reaches.
func raggedMask(s *mlxc.Scope, past int, lengths []int, n, window int) *mlxc.Array {
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

func (st *scoreState) rope(s *mlxc.Scope, x *mlxc.Array, p mlxc.RoPE) *mlxc.Array {
	if st.offset != nil {
		return s.RoPEAt(x, p, st.offset)
	}
	return s.RoPE(x, p, st.past.length)
}

func (st *scoreState) positions(s *mlxc.Scope, rows, tokens int) *mlxc.Array {
	within := s.ExpandDims(s.Arange(0, tokens, mlxc.Int32), 0)
	if st.offset != nil {
		return s.Add(s.ExpandDims(st.offset, 1), within)
	}
	return s.Contiguous(s.BroadcastTo(s.Add(within, s.Scalar(float64(st.past.length), mlxc.Int32)), rows, tokens))
}

func (st *scoreState) attend(s *mlxc.Scope, layer int, q, keys, values *mlxc.Array, scale float32) *mlxc.Array {
	if st.past.length > 0 {
		join := func(past, added *mlxc.Array) *mlxc.Array {
			if past.Dim(0) != added.Dim(0) { // one past for all rows
				past = s.BroadcastTo(past, added.Dim(0), past.Dim(1), past.Dim(2), past.Dim(3))
			}
			return s.Concatenate(2, past, added)
		}
		keys, values = join(st.past.keys[layer], keys), join(st.past.values[layer], values)
	}
	st.seen.keys, st.seen.values = append(st.seen.keys, keys), append(st.seen.values, values)
	st.seen.length = keys.Dim(2)
	return mergeHeads(s, s.SDPA(q, keys, values, scale, st.masks[layer]))
}

func (st *scoreState) observe(*mlxc.Scope, int, string, *mlxc.Array) {}
