package native

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// Layout is what the layers of a model keep of each position, and for whom.
type Layout struct {
	windows     []int // sliding window of each layer, 0 for full attention
	kvHeads     int
	headDim     int
	elementSize int64        // bytes of a number
	rings       bool         // for the CPU kernels; otherwise for attention
	attention   nn.Attention // of MLX, or a CUDA kernel in its place
	joined      bool         // keys and values come as slices of an array that holds the queries too
}

// positionBytes is the keys and values of one position in one layer.
func (l *Layout) positionBytes() int64 { return 2 * int64(l.kvHeads*l.headDim) * l.elementSize }

// windowed reports whether a layer forgets: what was overwritten does not come back.
func (l *Layout) windowed() bool {
	for _, window := range l.windows {
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
	caches []nn.KVCache
	layout *Layout
	rings  bool // the caches are for the CPU kernels
}

// newSequence makes an empty sequence for the kernels that the layout names.
func newSequence(l *Layout) *Sequence {
	if !l.rings {
		return newBoundedSequence(l, 0)
	}
	st := &Sequence{layout: l, rings: true}
	for _, window := range l.windows {
		st.caches = append(st.caches, nn.NewRingCache(window))
	}
	return st
}

// newBoundedSequence makes an empty sequence for MLX's ops. It bounds the layers with full attention to so many positions; 0 for
// no bound.
func newBoundedSequence(l *Layout, bound int) *Sequence {
	st := &Sequence{layout: l}
	for _, window := range l.windows {
		switch {
		case window > 0:
			st.caches = append(st.caches, nn.NewRotatingCache(window))
		case bound > 0:
			st.caches = append(st.caches, nn.NewBoundedCache(bound, keptPositions))
		default:
			st.caches = append(st.caches, nn.NewFullCache())
		}
	}
	return st
}

// quantize packs the KV of layers with full attention; a sliding window is small as it is.
func (st *Sequence) quantize(s *mlxc.Scope, q mlxc.Quantization) {
	for i, c := range st.caches {
		full, ok := c.(*nn.FullCache)
		if !ok {
			continue
		}
		st.caches[i] = full.Quantize(s, q)
		if err := full.Free(); err != nil {
			s.Fail(err)
		}
	}
}

func (st *Sequence) arrays() []*mlxc.Array {
	var out []*mlxc.Array
	for _, c := range st.caches {
		out = append(out, c.Arrays()...)
	}
	return out
}

// share returns a sequence of its own that goes on from the same positions.
func (st *Sequence) share(s *mlxc.Scope) *Sequence {
	out := &Sequence{layout: st.layout, rings: st.rings}
	for _, c := range st.caches {
		out.caches = append(out.caches, c.Share(s))
	}
	return out
}

// trim forgets the last n positions. It returns false, and the sequence is of no use any more, if a layer
// cannot.
func (st *Sequence) trim(s *mlxc.Scope, n int) bool {
	for _, c := range st.caches {
		if !c.Trim(s, n) {
			return false
		}
	}
	return true
}

// growth is the bytes that the caches allocate for a pass over tokens.
func (st *Sequence) growth(tokens int) int64 {
	positions := 0
	for _, c := range st.caches {
		positions += c.Room(tokens)
	}
	return int64(positions) * st.layout.positionBytes()
}

func (st *Sequence) bytes() int64 {
	var n int64
	for _, c := range st.caches {
		n += c.Bytes()
	}
	return n
}

func (st *Sequence) free() error {
	var errs []error
	for _, c := range st.caches {
		errs = append(errs, c.Free())
	}
	return errors.Join(errs...)
}

// position is the number of positions that the sequence has seen.
func (st *Sequence) position() int { return st.caches[0].Offset() }

// newPass prepares a pass of the next tokens of one or several sequences, all with rings or all without. What the rows share, the
// projections and the MLP, is computed for all at once; each row attends to its own caches, so rows of any length go together
// without padding, and none is copied when another comes or goes. Rows that have one sequence together, as when a pass is
// traced, count as one.
func newPass(s *mlxc.Scope, sequences []*Sequence, tokens int) *Pass {
	if sequences[0].rings {
		return &Pass{kernel: nextTokens(sequences, tokens)}
	}
	rows := &rowMemory{sequences: sequences, masks: make([][]mlxc.Mask, len(sequences))}
	starts := make([]int32, len(sequences))
	for i, st := range sequences {
		starts[i] = int32(st.position())
		rows.masks[i] = fillMasks(st.layout.windows, func(layer, _ int) mlxc.Mask { return st.caches[layer].(nn.OpCache).Mask(s, tokens) })
	}
	if len(sequences) == 1 {
		return &Pass{memory: rows, first: sequences[0].position()}
	}
	return &Pass{memory: rows, starts: s.FromInts(starts, len(starts))}
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
		return mergeHeads(s, m.attendRow(s, 0, layer, q, k, v, scale))
	}
	qs, ks, vs := s.Split(q, n, 0), s.Split(k, n, 0), s.Split(v, n, 0)
	out := make([]*mlxc.Array, n)
	for i := range out {
		out[i] = m.attendRow(s, i, layer, qs[i], ks[i], vs[i], scale)
	}
	return mergeHeads(s, s.Concatenate(0, out...))
}

func (m *rowMemory) attendRow(s *mlxc.Scope, row, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	st := m.sequences[row]
	if st.layout.joined && k.Dim(2) > 1 { // a cache that kept the slices would keep the queries beside them
		k, v = s.Contiguous(k), s.Contiguous(v)
	}
	return st.caches[layer].(nn.OpCache).Attend(s, st.layout.attention, q, k, v, scale, m.masks[row][layer])
}
