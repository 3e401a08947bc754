package fused

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

const (
	keysPerBlock = 32 // of a block that scores keys

	// MaxPackedKeys is how many keys, past ones included, Packed can attend to.
	MaxPackedKeys = 4096

	// One block attends for a head, in one kernel instead of two, where there are at least so many rows to keep the GPU busy
	// and at most so many keys.
	minRowsInOne, maxKeysInOne = 4, 1024
)

// mlxHeadDims are the head sizes for which MLX has a kernel of its own for one query.
var mlxHeadDims = map[int]bool{64: true, 96: true, 128: true}

// Attention is mlxc.Scope.SDPA, in two kernels for one query of one row where MLX would take a handful.
func (k *Kernels) Attention(s *mlxc.Scope, q, keys, values *mlxc.Array, scale float32, mask mlxc.Mask) *mlxc.Array {
	if mlxHeadDims[k.shape.HeadDim] || q.Dim(0) != 1 || q.Dim(2) != 1 || mask.Array != nil || scale != k.shape.AttentionScale {
		return s.SDPA(q, keys, values, scale, mask)
	}
	return k.attendOne(s, q, keys, values, nil)
}

// AttendFilled is attention of one query of each row, [B, heads, 1, head_dim], to the first filled (int32 [B]) of the row's
// keys and values [B, kv_heads, room, head_dim].
func (k *Kernels) AttendFilled(s *mlxc.Scope, q, keys, values, filled *mlxc.Array) *mlxc.Array {
	rows, room := keys.Dim(0), keys.Dim(2)
	if rows < minRowsInOne || room > maxKeysInOne {
		return k.attendOne(s, q, keys, values, filled)
	}
	h, d := k.shape.Heads, k.shape.HeadDim
	return k.run(s, k.attend, launch{
		grid: [3]int{h * pointThreads, rows, 1}, group: [3]int{pointThreads, 1, 1},
		constants: []int{h, k.shape.KVHeads, d, maxKeysInOne},
		output:    mlxc.Output{Shape: []int{rows, h, 1, d}, DType: k.shape.DType},
	}, q, keys, values, filled, k.scale)
}

func (k *Kernels) attendOne(s *mlxc.Scope, q, keys, values, filled *mlxc.Array) *mlxc.Array {
	h, kv, d := k.shape.Heads, k.shape.KVHeads, k.shape.HeadDim
	rows, room := keys.Dim(0), keys.Dim(2)
	constants := []int{h, kv, d, flag(filled != nil)}
	if filled == nil {
		filled = k.scale // not read
	}
	blocks := (room + keysPerBlock - 1) / keysPerBlock
	scores := k.run(s, k.scores, launch{
		grid: [3]int{blocks * pointThreads, kv, rows}, group: [3]int{pointThreads, 1, 1},
		constants: constants, output: mlxc.Output{Shape: []int{rows, h, room}, DType: k.shape.DType},
	}, q, keys, k.scale, filled)
	return k.run(s, k.weigh, launch{
		grid: [3]int{d / warp * pointThreads, h, rows}, group: [3]int{pointThreads, 1, 1},
		constants: constants, output: mlxc.Output{Shape: []int{rows, h, 1, d}, DType: k.shape.DType},
	}, scores, values, filled)
}

// AttendPacked is attention of the queries [1, heads, T, head_dim] of several texts, packed into one row, to
// keys and values [1, kv_heads, P, head_dim] that they share and to their own [1, kv_heads, T, head_dim];
// visible, bool [T, P+T], says who sees what. P+T is at most MaxPackedKeys, and P may not be 0. It returns
// [1, T, heads*head_dim].
func (k *Kernels) AttendPacked(s *mlxc.Scope, q, pastKeys, pastValues, keys, values, visible *mlxc.Array) *mlxc.Array {
	h, t, d := k.shape.Heads, q.Dim(2), k.shape.HeadDim
	return k.run(s, k.packed, launch{
		grid: [3]int{t * pointThreads, h, 1}, group: [3]int{pointThreads, 1, 1},
		constants: []int{h, k.shape.KVHeads, d, MaxPackedKeys},
		output:    mlxc.Output{Shape: []int{1, t, h * d}, DType: k.shape.DType},
	}, q, pastKeys, pastValues, keys, values, visible, k.scale)
}
