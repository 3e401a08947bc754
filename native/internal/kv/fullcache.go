package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// FullCache keeps every position, in a buffer that grows by blocks.
type FullCache struct {
	pair
	offset int
}

// NewFullCache makes an empty cache.
func NewFullCache() *FullCache { return &FullCache{} }

// Offset is the number of positions held.
func (c *FullCache) Offset() int { return c.offset }

// Share copies the cache but not its arrays.
func (c *FullCache) Share(s *mlxc.Scope) Cache { return &FullCache{c.share(s), c.offset} }

// Trim always can: later positions are written over.
func (c *FullCache) Trim(_ *mlxc.Scope, n int) bool {
	if n < 0 || n > c.offset {
		return false
	}
	c.offset -= n
	return true
}

// Room is the whole new buffer when the present one is too small or shared.
func (c *FullCache) Room(n int) int {
	if !c.empty() && c.offset+n <= c.keys.Dim(timeAxis) {
		if c.shared {
			return c.keys.Dim(timeAxis)
		}
		return 0
	}
	return c.offset + blocks(n)
}

// Mask is causal for several tokens and none for one, which sees all.
func (c *FullCache) Mask(_ *mlxc.Scope, n int) mlxc.Mask { return mlxc.Mask{Causal: n > 1} }

// Attend sees all positions.
func (c *FullCache) Attend(s *mlxc.Scope, attention Attention, q, k, v *mlxc.Array, scale float32, mask mlxc.Mask) *mlxc.Array {
	k, v = c.Update(s, k, v)
	return attention(s, q, k, v, scale, mask)
}

// Update writes after the last position and returns all that is held.
func (c *FullCache) Update(s *mlxc.Scope, keys, values *mlxc.Array) (k, v *mlxc.Array) {
	n, prev := keys.Dim(timeAxis), c.offset
	c.makeRoom(s, keys, values, n)
	c.offset += n
	c.replace(s,
		s.SliceUpdate(c.keys, keys, timeAxis, prev, c.offset),
		s.SliceUpdate(c.values, values, timeAxis, prev, c.offset))
	if c.offset == c.keys.Dim(timeAxis) {
		return c.keys, c.values
	}
	return c.both(func(a *mlxc.Array) *mlxc.Array { return s.Slice(a, timeAxis, 0, c.offset) })
}

// makeRoom grows the buffers for n positions in the shape of keys and values.
func (c *FullCache) makeRoom(s *mlxc.Scope, keys, values *mlxc.Array, n int) {
	if prev := c.offset; c.empty() || prev+n > c.keys.Dim(timeAxis) {
		room := blocks(n)
		var oldKeys, oldValues *mlxc.Array
		if !c.empty() {
			oldKeys, oldValues = c.both(func(a *mlxc.Array) *mlxc.Array {
				if prev%growBy == 0 {
					return a
				}
				return s.Slice(a, timeAxis, 0, prev)
			})
		}
		c.replace(s, grow(s, oldKeys, keys, room), grow(s, oldValues, values, room))
	}
}

// Slot is the position after the last one.
func (c *FullCache) Slot(s *mlxc.Scope) (keys, values *mlxc.Array, at Place) {
	c.makeRoom(s, c.keys, c.values, 1)
	return c.keys, c.values, c.Next()
}

// Fill counts the position.
func (c *FullCache) Fill(s *mlxc.Scope, keys, values *mlxc.Array) {
	c.replace(s, keys, values)
	c.Advance()
}

// Next is the place after the last position.
func (c *FullCache) Next() Place { return Place{c.offset, c.offset + 1} }

// Advance counts a position.
func (c *FullCache) Advance() { c.offset++ }
