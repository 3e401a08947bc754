package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// growBy is how many positions a cache grows at a time.
const growBy = 256

// timeAxis is the axis of positions in keys and values [B, kv_heads, T, head_dim].
const timeAxis = 2

// Attention computes what queries attend to, with the arguments of mlxc.Scope.SDPA, which is one.
type Attention func(s *mlxc.Scope, q, k, v *mlxc.Array, scale float32, mask mlxc.Mask) *mlxc.Array

// Cache keeps the keys and values of one layer between passes. The cache owns its arrays.
type Cache interface {
	// Offset is the number of positions seen so far.
	Offset() int
	// Share returns a cache of its own that goes on from the same positions; both hold the same arrays
	// until one of them is updated.
	Share(s *mlxc.Scope) Cache
	// Trim forgets the last n positions and reports whether it can: what was overwritten does not come back.
	Trim(s *mlxc.Scope, n int) bool
	// Room is how many positions a pass of n tokens makes new buffers for.
	Room(n int) int
	// Arrays are what must be evaluated for the cache to hold values.
	Arrays() []*mlxc.Array
	// Bytes is the size of the keys and values held.
	Bytes() int64
	Free() error
}

// OpCache is a cache for attention by MLX's ops, or by one kernel in their place. What Attend returns belongs to the scope
// of the pass.
type OpCache interface {
	Cache
	// Attend appends keys and values [B, kv_heads, T, head_dim] and returns what the queries
	// [B, heads, T, head_dim] attend to.
	Attend(s *mlxc.Scope, attention Attention, q, k, v *mlxc.Array, scale float32, mask mlxc.Mask) *mlxc.Array
	// Mask is the attention mask for a pass of n tokens, asked for before Attend.
	Mask(s *mlxc.Scope, n int) mlxc.Mask
}

// Slotted is a cache whose next single token can be written by index, as a compiled pass does that is the same
// for every position.
type Slotted interface {
	OpCache
	// Slot makes room for one more position and returns keys and values [B, kv_heads, room, head_dim], which stay
	// the cache's, with that position's place. It needs a cache that is not empty.
	Slot(s *mlxc.Scope) (keys, values *mlxc.Array, at Place)
	// Fill takes the arrays of Slot back with the position written.
	Fill(s *mlxc.Scope, keys, values *mlxc.Array)

	// Detach, after Slot, frees the arrays, whose contents are in a batch's buffers now. The cache still counts positions.
	Detach() error
	// Next is the place of the next position in the batch's buffers.
	Next() Place
	// Advance counts a position that was written to the batch's buffers.
	Advance()
	// Restore ends Detach: the cache owns arrays again, copied from the batch's buffers.
	Restore(s *mlxc.Scope, keys, values *mlxc.Array)
}

// Place is where a position goes: index At, with which the first Filled positions hold something.
type Place struct{ At, Filled int }

// pair is keys and values held over passes.
type pair struct {
	keys, values *mlxc.Array
	shared       bool // another cache may hold the same arrays, so that what is written makes new ones
}

func (p *pair) empty() bool { return p.keys == nil }

// replace keeps new arrays and drops the old ones at once: with the last handle gone before the new
// ones are evaluated, MLX writes into the old buffer instead of copying it.
func (p *pair) replace(s *mlxc.Scope, keys, values *mlxc.Array) {
	if err := p.Free(); err != nil {
		s.Fail(err)
	}
	p.keys, p.values, p.shared = s.Keep(keys), s.Keep(values), false
}

// share is another pair on the same arrays.
func (p *pair) share(s *mlxc.Scope) pair {
	if p.empty() {
		return pair{}
	}
	p.shared = true
	return pair{s.Keep(s.Share(p.keys)), s.Keep(s.Share(p.values)), true}
}

// both applies an op to keys and values.
func (p *pair) both(op func(*mlxc.Array) *mlxc.Array) (k, v *mlxc.Array) {
	return op(p.keys), op(p.values)
}

// Detach forgets the arrays.
func (p *pair) Detach() error { return p.Free() }

// Restore takes arrays.
func (p *pair) Restore(s *mlxc.Scope, keys, values *mlxc.Array) { p.replace(s, keys, values) }

// Arrays are the keys and the values, if there are any.
func (p *pair) Arrays() []*mlxc.Array {
	if p.empty() {
		return nil
	}
	return []*mlxc.Array{p.keys, p.values}
}

// Bytes is their size.
func (p *pair) Bytes() int64 {
	if p.empty() {
		return 0
	}
	return int64(p.keys.NBytes() + p.values.NBytes())
}

// Free gives them back.
func (p *pair) Free() error {
	if p.empty() {
		return nil
	}
	errKeys, errValues := p.keys.Free(), p.values.Free()
	p.keys, p.values = nil, nil
	if errKeys != nil {
		return errKeys
	}
	return errValues
}

// grow appends room for n positions of zeros in the shape of like.
func grow(s *mlxc.Scope, a, like *mlxc.Array, n int) *mlxc.Array {
	room := s.Zeros(like.DType(), like.Dim(0), like.Dim(1), n, like.Dim(3))
	if a == nil {
		return room
	}
	return s.Concatenate(timeAxis, a, room)
}
