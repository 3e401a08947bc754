package kv

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Layout is what the layers of a model keep of each position, and for whom.
type Layout struct {
	Windows     []int // sliding window of each layer, 0 for full attention
	KVHeads     int
	HeadDim     int
	ElementSize int64     // bytes of a number
	Rings       bool      // for the CPU kernels; otherwise for attention
	Attention   Attention // of MLX, or a CUDA kernel in its place
	Joined      bool      // keys and values come as slices of an array that holds the queries too
}

// PositionBytes is the keys and values of one position in one layer.
func (l *Layout) PositionBytes() int64 { return 2 * int64(l.KVHeads*l.HeadDim) * l.ElementSize }

// Windowed reports whether a layer forgets: what was overwritten does not come back.
func (l *Layout) Windowed() bool {
	for _, window := range l.Windows {
		if window > 0 {
			return true
		}
	}
	return false
}

// keptPositions is how many first positions a bounded cache never forgets, as in mlx-lm.
const keptPositions = 4

// Sequence is the KV of one row of tokens, a cache for each layer. It belongs to the owner thread.
type Sequence struct {
	Caches    []Cache
	layout    *Layout
	Rings     bool // the caches are for the CPU kernels
	bound     int  // positions that layers with full attention see at most; 0 for no bound
	quantised bool // there are quantised caches
}

// NewSequence makes an empty sequence for the kernels that the layout names.
func NewSequence(l *Layout) *Sequence { return NewBoundedSequence(l, 0) }

// NewBoundedSequence makes an empty sequence whose layers with full attention are bound to so many positions; 0 for no bound.
func NewBoundedSequence(l *Layout, bound int) *Sequence {
	st := &Sequence{layout: l, Rings: l.Rings, bound: bound}
	for _, window := range l.Windows {
		switch {
		case l.Rings && window == 0 && bound > 0:
			st.Caches = append(st.Caches, NewBoundedRing(bound, keptPositions))
		case l.Rings:
			st.Caches = append(st.Caches, NewRingCache(window))
		case window > 0:
			st.Caches = append(st.Caches, NewRotatingCache(window))
		case bound > 0:
			st.Caches = append(st.Caches, NewBoundedCache(bound, keptPositions))
		default:
			st.Caches = append(st.Caches, NewFullCache())
		}
	}
	return st
}

// Quantize packs the KV of layers with full attention; a sliding window is small as it is.
func (st *Sequence) Quantize(s *mlxc.Scope, q mlxc.Quantization) {
	for i, c := range st.Caches {
		switch full := c.(type) {
		case *FullCache:
			st.Caches[i] = full.Quantize(s, q)
		case *RingCache:
			if full.Window() > 0 {
				continue
			}
			st.Caches[i] = full.Quantize(s, q)
		default:
			continue
		}
		st.quantised = true
		if err := c.Free(); err != nil {
			s.Fail(err)
		}
	}
}

// Arrays are what must be evaluated for the sequence to hold values.
func (st *Sequence) Arrays() []*mlxc.Array {
	var out []*mlxc.Array
	for _, c := range st.Caches {
		out = append(out, c.Arrays()...)
	}
	return out
}

// Share returns a sequence of its own that goes on from the same positions.
func (st *Sequence) Share(s *mlxc.Scope) *Sequence {
	out := &Sequence{layout: st.layout, Rings: st.Rings, bound: st.bound, quantised: st.quantised}
	for _, c := range st.Caches {
		out.Caches = append(out.Caches, c.Share(s))
	}
	return out
}

// Trim forgets the last n positions. It returns false, and the sequence is of no use any more, if a layer
// cannot.
func (st *Sequence) Trim(s *mlxc.Scope, n int) bool {
	for _, c := range st.Caches {
		if !c.Trim(s, n) {
			return false
		}
	}
	return true
}

// Growth is the bytes that the caches allocate for a pass over tokens.
func (st *Sequence) Growth(tokens int) int64 {
	positions := 0
	for _, c := range st.Caches {
		positions += c.Room(tokens)
	}
	if st.quantised && st.Rings { // of one layer at a time, what was unpacked, and with the pass's own
		positions += 2 * blocks(st.Position()+tokens)
	}
	return int64(positions) * st.layout.PositionBytes()
}

// Bytes is the size of the keys and values held.
func (st *Sequence) Bytes() int64 {
	var n int64
	for _, c := range st.Caches {
		n += c.Bytes()
	}
	return n
}

// Free gives them back.
func (st *Sequence) Free() error {
	var errs []error
	for _, c := range st.Caches {
		errs = append(errs, c.Free())
	}
	return errors.Join(errs...)
}

// Position is the number of positions that the sequence has seen.
func (st *Sequence) Position() int { return st.Caches[0].Offset() }

// NewPass prepares a pass of the next tokens of one or several sequences, all with rings or all without. What the rows share, the
// projections and the MLP, is computed for all at once; each row attends to its own caches, so rows of any length go together
// without padding, and none is copied when another comes or goes. Rows that have one sequence together, as when a pass is
// traced, count as one.
func NewPass(s *mlxc.Scope, sequences []*Sequence, tokens int) *Pass {
	if sequences[0].Rings {
		return &Pass{Kernel: nextTokens(sequences, tokens)}
	}
	rows := &rowMemory{sequences: sequences, masks: make([][]mlxc.Mask, len(sequences))}
	starts := make([]int32, len(sequences))
	for i, st := range sequences {
		starts[i] = int32(st.Position())
		rows.masks[i] = FillMasks(st.layout.Windows, func(layer, _ int) mlxc.Mask { return st.Caches[layer].(OpCache).Mask(s, tokens) })
	}
	if len(sequences) == 1 {
		return &Pass{Memory: rows, first: sequences[0].Position()}
	}
	return &Pass{Memory: rows, Starts: s.FromInts(starts, len(starts))}
}

// rowMemory is the caches of a pass's rows.
type rowMemory struct {
	sequences []*Sequence
	masks     [][]mlxc.Mask // of each sequence's layers
}

// Attend lets every row attend to its own cache.
func (m *rowMemory) Attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	n := len(m.sequences)
	if n == 1 {
		return MergeHeads(s, m.attendRow(s, 0, layer, q, k, v, scale))
	}
	qs, ks, vs := s.Split(q, n, 0), s.Split(k, n, 0), s.Split(v, n, 0)
	out := make([]*mlxc.Array, n)
	for i := range out {
		out[i] = m.attendRow(s, i, layer, qs[i], ks[i], vs[i], scale)
	}
	return MergeHeads(s, s.Concatenate(0, out...))
}

func (m *rowMemory) attendRow(s *mlxc.Scope, row, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	st := m.sequences[row]
	if st.layout.Joined && k.Dim(2) > 1 { // a cache that kept the slices would keep the queries beside them
		k, v = s.Contiguous(k), s.Contiguous(v)
	}
	return st.Caches[layer].(OpCache).Attend(s, st.layout.Attention, q, k, v, scale, m.masks[row][layer])
}
