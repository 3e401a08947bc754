package kv

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// History is the keys and values of positions that many rows share or extend, layer by layer: a sequence for the CPU kernels, or else
// arrays in which nothing is overwritten and sliding windows are a matter of masks.
type History struct {
	Sequence     *Sequence     // nil without CPU kernels
	Keys, Values []*mlxc.Array // [B, kv_heads, length, head_dim]
	Length       int
}

// Share returns a history of its own on the same arrays.
func (h *History) Share(s *mlxc.Scope) *History {
	out := &History{Length: h.Length}
	if h.Sequence != nil {
		out.Sequence = h.Sequence.Share(s)
	}
	for i := range h.Keys {
		out.Keys = append(out.Keys, s.Keep(s.Share(h.Keys[i])))
		out.Values = append(out.Values, s.Keep(s.Share(h.Values[i])))
	}
	return out
}

// Bytes is the size of the keys and values.
func (h *History) Bytes() int64 {
	var n int64
	if h.Sequence != nil {
		n = h.Sequence.Bytes()
	}
	for i := range h.Keys {
		n += int64(h.Keys[i].NBytes() + h.Values[i].NBytes())
	}
	return n
}

// Free gives them back.
func (h *History) Free() error {
	var errs []error
	if h.Sequence != nil {
		errs = append(errs, h.Sequence.Free())
	}
	for i := range h.Keys {
		errs = append(errs, h.Keys[i].Free(), h.Values[i].Free())
	}
	h.Sequence, h.Keys, h.Values = nil, nil, nil
	return errors.Join(errs...)
}

// HistoryMemory is the memory of rows over a history, as classification needs it. It remembers the keys and
// values that layers see, so that a later pass can go on from them.
type HistoryMemory struct {
	past  *History
	Masks []mlxc.Mask // of each layer
	Seen  History
}

// NewHistoryPass prepares a pass in which every row continues past with n tokens. Rows may be padded
// after their end: no real token attends to what comes after it.
func NewHistoryPass(s *mlxc.Scope, past *History, n int, windows []int) (*Pass, *HistoryMemory) {
	m := &HistoryMemory{past: past, Masks: FillMasks(windows, func(_, window int) mlxc.Mask {
		if window > 0 && past.Length+n > window {
			return mlxc.Mask{Array: CausalMask(s, n, past.Length, window)}
		}
		return mlxc.Mask{Causal: n > 1}
	})}
	return &Pass{first: past.Length, Memory: m}, m
}

// ReleaseLayers makes the pass run one layer to its end before the next, so that no two layers' scores are held at a time. A GPU, which is
// handed one step after the other and not waited for, otherwise holds those of several.
func (m *HistoryMemory) ReleaseLayers(p *Pass) {
	p.Around = releaseLayers(func(layer int) []*mlxc.Array { return []*mlxc.Array{m.Seen.Keys[layer], m.Seen.Values[layer]} })
}

// NewRaggedPass prepares a pass of n tokens for each row, where row b continues after its own lengths[b]
// positions of past and the rest of past is padding.
func NewRaggedPass(s *mlxc.Scope, past *History, lengths []int, n int, windows []int) *Pass {
	starts := make([]int32, len(lengths))
	for b, length := range lengths {
		starts[b] = int32(length)
	}
	return &Pass{Starts: s.FromInts(starts, len(starts)), Memory: &HistoryMemory{past: past, Masks: FillMasks(windows, func(_, window int) mlxc.Mask {
		return mlxc.Mask{Array: raggedMask(s, past.Length, lengths, n, window)}
	})}}
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

// NewBothWaysPass prepares a pass in which every token of a row of its length sees all others, in a layer with a
// window those at most half a window away, as EmbeddingGemma (arXiv:2509.20354) does.
func NewBothWaysPass(s *mlxc.Scope, lengths []int, width int, windows []int) *Pass {
	return &Pass{Memory: &HistoryMemory{past: &History{}, Masks: FillMasks(windows, func(_, window int) mlxc.Mask {
		return mlxc.Mask{Array: bothWaysMask(s, lengths, width, window)}
	})}}
}

// bothWaysMask is [B, 1, width, width].
func bothWaysMask(s *mlxc.Scope, lengths []int, width, window int) *mlxc.Array {
	visible := make([]bool, len(lengths)*width*width)
	for b, length := range lengths {
		for t := range width {
			row := visible[(b*width+t)*width:][:width]
			for key := range row {
				near := window == 0 || max(t-key, key-t) <= window/2
				// Padding sees itself, so that its softmax has something to sum.
				row[key] = near && (key < length || key == t)
			}
		}
	}
	return s.FromBools(visible, len(lengths), 1, width, width)
}

// Attend sees the past and the row itself, as the masks allow.
func (m *HistoryMemory) Attend(s *mlxc.Scope, layer int, q, keys, values *mlxc.Array, scale float32) *mlxc.Array {
	if m.past.Length > 0 {
		join := func(past, added *mlxc.Array) *mlxc.Array {
			if past.Dim(0) != added.Dim(0) { // one past for all rows
				past = s.BroadcastTo(past, added.Dim(0), past.Dim(1), past.Dim(2), past.Dim(3))
			}
			return s.Concatenate(2, past, added)
		}
		keys, values = join(m.past.Keys[layer], keys), join(m.past.Values[layer], values)
	}
	m.Seen.Keys, m.Seen.Values = append(m.Seen.Keys, keys), append(m.Seen.Values, values)
	m.Seen.Length = keys.Dim(2)
	return MergeHeads(s, s.SDPA(q, keys, values, scale, m.Masks[layer]))
}
