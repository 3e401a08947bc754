package native

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// decodeState is one sequence under generation: a KV cache for each layer.
type decodeState struct {
	caches  []nn.KVCache
	masks   []mlxc.Mask
	fused   *fusedDecoder
	kernels bool // the caches are rings for the CPU kernels; otherwise they are for MLX's ops
	bound   int  // positions that layers with full attention see at most; 0 for no bound
	packed  bool // there are quantised caches
}

// newDecodeState makes an empty state.
func newDecodeState(shape modelShape) *decodeState { return newBoundedState(shape, 0) }

// keptPositions is how many first positions a bounded cache never forgets, as in mlx-lm.
const keptPositions = 4

// newBoundedState makes an empty state whose layers with full attention are bound to so many positions; 0 for no bound.
func newBoundedState(shape modelShape, bound int) *decodeState {
	st := &decodeState{masks: make([]mlxc.Mask, len(shape.windows)), fused: shape.fused, kernels: shape.kernels, bound: bound}
	for _, window := range shape.windows {
		switch {
		case shape.kernels && window == 0 && bound > 0:
			st.caches = append(st.caches, nn.NewBoundedRing(bound, keptPositions))
		case shape.kernels:
			st.caches = append(st.caches, nn.NewRingCache(window))
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
func (st *decodeState) quantize(s *mlxc.Scope, q mlxc.Quantization) {
	for i, c := range st.caches {
		switch full := c.(type) {
		case *nn.FullCache:
			st.caches[i] = full.Quantize(s, q)
		case *nn.RingCache:
			if full.Window() > 0 {
				continue
			}
			st.caches[i] = full.Quantize(s, q)
		default:
			continue
		}
		st.packed = true
		if err := c.Free(); err != nil {
			s.Fail(err)
		}
	}
}

// begin prepares a pass of n tokens. Layers of one kind share their mask.
func (st *decodeState) begin(s *mlxc.Scope, n int, windows []int) {
	if st.kernels {
		return // which need no masks
	}
	fillMasks(st.masks, windows, func(layer, _ int) mlxc.Mask { return st.caches[layer].(nn.OpCache).Mask(s, n) })
}

func (st *decodeState) kernelPass(_, tokens int) *kernelPass {
	if !st.kernels {
		return nil
	}
	return passOver([]*decodeState{st}, tokens)
}

// fillMasks gives every layer its mask, made once for each window.
func fillMasks(masks []mlxc.Mask, windows []int, mask func(layer, window int) mlxc.Mask) {
	shared := map[int]mlxc.Mask{}
	for layer, window := range windows {
		m, ok := shared[window]
		if !ok {
			m = mask(layer, window)
			shared[window] = m
		}
		masks[layer] = m
	}
}

// rope takes the first cache's offset: within a pass, a layer rotates before it updates its cache, and
// layers run in order, so the layer under way still has the offset of the pass's first token.
func (st *decodeState) rope(s *mlxc.Scope, x *mlxc.Array, p mlxc.RoPE) *mlxc.Array {
	return s.RoPE(x, p, st.caches[len(st.caches)-1].Offset())
}

func (st *decodeState) positions(s *mlxc.Scope, _, tokens int) *mlxc.Array {
	return s.Arange(st.position(), st.position()+tokens, mlxc.Int32)
}

func (st *decodeState) attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	return mergeHeads(s, st.attendHeads(s, layer, q, k, v, scale))
}

// attendHeads is attend with the result in the queries' shape.
func (st *decodeState) attendHeads(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	if st.fused != nil && k.Dim(2) > 1 { // a cache that kept the slices would keep the queries beside them
		k, v = s.Contiguous(k), s.Contiguous(v)
	}
	return st.caches[layer].(nn.OpCache).Attend(s, st.fused.attention(), q, k, v, scale, st.masks[layer])
}

func (st *decodeState) observe(*mlxc.Scope, int, string, *mlxc.Array) {}

func (st *decodeState) arrays() []*mlxc.Array {
	var out []*mlxc.Array
	for _, c := range st.caches {
		out = append(out, c.Arrays()...)
	}
	return out
}

// share returns a state of its own that goes on from the same positions.
func (st *decodeState) share(s *mlxc.Scope) *decodeState {
	out := &decodeState{masks: make([]mlxc.Mask, len(st.masks)), fused: st.fused, kernels: st.kernels, bound: st.bound, packed: st.packed}
	for _, c := range st.caches {
		out.caches = append(out.caches, c.Share(s))
	}
	return out
}

// trim forgets the last n positions. It returns false, and the state is of no use any more, if a layer
// cannot.
func (st *decodeState) trim(s *mlxc.Scope, n int) bool {
	for _, c := range st.caches {
		if !c.Trim(s, n) {
			return false
		}
	}
	return true
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

// position is the number of positions that the state has seen.
func (st *decodeState) position() int { return st.caches[0].Offset() }

// batchState is one pass of single tokens for several sequences, all with rings or all without. What the rows share, the projections and
// the MLP, is computed for all at once; each row attends to its own cache, so rows of any length go
// together without padding, and none is copied when another comes or goes.
type batchState struct {
	rows   []*decodeState
	offset *mlxc.Array // int32 [B]
}

func newBatchState(s *mlxc.Scope, rows []*decodeState, windows []int) *batchState {
	if rows[0].kernels {
		return &batchState{rows: rows}
	}
	offsets := make([]int32, len(rows))
	for i, row := range rows {
		offsets[i] = int32(row.position())
		row.begin(s, 1, windows)
	}
	return &batchState{rows: rows, offset: s.FromInts(offsets, len(offsets))}
}

func (st *batchState) kernelPass(_, tokens int) *kernelPass {
	if !st.rows[0].kernels {
		return nil
	}
	return passOver(st.rows, tokens)
}

func (st *batchState) rope(s *mlxc.Scope, x *mlxc.Array, p mlxc.RoPE) *mlxc.Array {
	return s.RoPEAt(x, p, st.offset)
}

// positions: each row has one token.
func (st *batchState) positions(*mlxc.Scope, int, int) *mlxc.Array { return st.offset }

func (st *batchState) attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	n := len(st.rows)
	qs, ks, vs := s.Split(q, n, 0), s.Split(k, n, 0), s.Split(v, n, 0)
	out := make([]*mlxc.Array, n)
	for i, row := range st.rows {
		out[i] = row.attendHeads(s, layer, qs[i], ks[i], vs[i], scale)
	}
	return mergeHeads(s, s.Concatenate(0, out...))
}

func (st *batchState) observe(*mlxc.Scope, int, string, *mlxc.Array) {}
