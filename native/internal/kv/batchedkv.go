package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// Batched holds the keys and values of one layer for several sequences, [places, kv_heads, room, head_dim]: each has
// a place, in which its positions lie as they did in its own cache. Like a cache it owns its arrays.
//
// They also have memory of their own, in row-major order: the CUDA kernel of a token writes to it without MLX's knowledge. MLX's ops do not ensure
// that: an update of the whole of an array is no copy but the update itself, and a slice is a view of what it was cut from. So
// what comes from a cache, which may share its arrays with kept KV, is copied (see own).
type Batched struct{ pair }

// RoomFor is how many positions a layer with a window, or 0, has room for when it needs n.
func RoomFor(n, window int) int {
	if window > 0 {
		return min(blocks(n), window)
	}
	return blocks(n)
}

// Room is the positions of each place.
func (b *Batched) Room() int {
	if b.empty() {
		return 0
	}
	return b.keys.Dim(timeAxis)
}

// Resize makes at least this many places with room for at least this many positions each. New places and positions
// are zeros. like has the kv_heads, head_dim and type of the keys and values.
func (b *Batched) Resize(s *mlxc.Scope, places, room int, like *mlxc.Array) {
	if b.empty() {
		zeros := func() *mlxc.Array { return s.Zeros(like.DType(), places, like.Dim(1), room, like.Dim(3)) }
		b.replace(s, zeros(), zeros())
		return
	}
	if places <= b.keys.Dim(0) && room <= b.keys.Dim(timeAxis) {
		return
	}
	b.change(s, func(a *mlxc.Array) *mlxc.Array {
		return extend(s, extend(s, a, 0, places), timeAxis, room)
	})
}

// Select keeps the places that are named, in this order.
func (b *Batched) Select(s *mlxc.Scope, places *mlxc.Array) {
	b.change(s, func(a *mlxc.Array) *mlxc.Array { return s.Take(a, places, 0) })
}

// Put copies keys and values [1, kv_heads, n, head_dim] to a place. Of positions without a room there, only such may be left
// as hold nothing: a cache may have more room than it needs, because it grows from wherever it stands and keeps what it has
// when it is cut back.
func (b *Batched) Put(s *mlxc.Scope, place int, keys, values *mlxc.Array) {
	put := func(all, one *mlxc.Array) *mlxc.Array {
		if n := b.Room(); n < one.Dim(timeAxis) {
			one = s.Slice(one, timeAxis, 0, n)
		}
		if all.Dim(0) == 1 {
			return own(s, one, b.Room())
		}
		return s.SliceUpdate(all, extend(s, one, timeAxis, b.Room()), 0, place, place+1)
	}
	b.Fill(s, put(b.keys, keys), put(b.values, values))
}

// Get copies the first positions of a place out, into arrays with room for more.
func (b *Batched) Get(s *mlxc.Scope, place, positions, room int) (keys, values *mlxc.Array) {
	return b.both(func(a *mlxc.Array) *mlxc.Array {
		// A copy, because a slice would hold the whole buffer for as long as it lives, and change with it.
		return own(s, s.Slice(s.Slice(a, 0, place, place+1), timeAxis, 0, positions), room)
	})
}

// Fill takes arrays with new positions written.
func (b *Batched) Fill(s *mlxc.Scope, keys, values *mlxc.Array) { b.replace(s, keys, values) }

func (b *Batched) change(s *mlxc.Scope, op func(*mlxc.Array) *mlxc.Array) {
	k, v := b.both(op)
	b.replace(s, k, v)
}

// own is a copy of keys or values in memory of its own, in row-major order, with room for so many positions.
func own(s *mlxc.Scope, a *mlxc.Array, room int) *mlxc.Array {
	if s.Err() != nil || a.Dim(timeAxis) < room {
		return extend(s, a, timeAxis, room)
	}
	// Two parts put together are the one op that always copies.
	dims := a.Dim(3)
	return s.Concatenate(3, s.Slice(a, 3, 0, dims/2), s.Slice(a, 3, dims/2, dims))
}

// extend appends zeros to an axis up to a length.
func extend(s *mlxc.Scope, a *mlxc.Array, axis, length int) *mlxc.Array {
	if length <= a.Dim(axis) || s.Err() != nil {
		return a
	}
	shape := a.Shape()
	shape[axis] = length - a.Dim(axis)
	return s.Concatenate(axis, a, s.Zeros(a.DType(), shape...))
}
