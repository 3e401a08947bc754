package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// RotatingCache keeps the last window positions of a sliding-window layer. Single tokens overwrite the
// oldest position in place; longer passes put the positions in order and append, so that each of their
// queries still sees its whole window.
type RotatingCache struct {
	pair
	window int
	keep   int // so many first positions are never overwritten
	offset int // positions seen
	next   int // where the next single token goes
}

// NewRotatingCache makes an empty cache for a window.
func NewRotatingCache(window int) *RotatingCache { return &RotatingCache{window: window} }

// NewBoundedCache makes an empty cache of at most size positions for a layer with full attention: the first
// keep and the last ones. With it a model forgets what is between; it is mlx-lm's max_kv_size.
func NewBoundedCache(size, keep int) *RotatingCache { return &RotatingCache{window: size, keep: keep} }

// Offset is the number of positions seen, not held.
func (c *RotatingCache) Offset() int { return c.offset }

// Share copies the cache but not its arrays.
func (c *RotatingCache) Share(s *mlxc.Scope) Cache {
	return &RotatingCache{pair: c.share(s), window: c.window, keep: c.keep, offset: c.offset, next: c.next}
}

// Trim can as long as the window that ends at the new last position is held, in order.
func (c *RotatingCache) Trim(s *mlxc.Scope, n int) bool {
	if n == 0 {
		return true
	}
	if n < 0 || n > c.offset || c.empty() || c.next != min(c.offset, c.keys.Dim(timeAxis)) {
		return false
	}
	left := c.next - n
	if c.next < c.offset && (left < c.window || c.keep > 0) || left < 0 { // the oldest positions are gone
		return false
	}
	c.offset -= n
	if left == 0 {
		if err := c.Free(); err != nil {
			s.Fail(err)
		}
		c.next = 0
		return true
	}
	k, v := c.both(func(a *mlxc.Array) *mlxc.Array { return s.Slice(a, timeAxis, 0, left) })
	c.replace(s, k, v)
	c.next = left
	return true
}

// Room is what a longer pass puts in order anew, or the next block; or the whole buffer if it is shared.
func (c *RotatingCache) Room(n int) int {
	if n > 1 {
		return min(c.offset, c.window-1) + n
	}
	if c.empty() || c.offset >= c.keys.Dim(timeAxis) && c.keys.Dim(timeAxis) < c.window {
		return min(c.offset+growBy, c.window)
	}
	if c.shared {
		return c.keys.Dim(timeAxis)
	}
	return 0
}

// Mask limits several tokens to their windows; one token sees all that is held.
func (c *RotatingCache) Mask(s *mlxc.Scope, n int) mlxc.Mask {
	if n == 1 {
		return mlxc.Mask{}
	}
	held := min(c.window-1, c.offset)
	if held+n > c.window {
		return mlxc.Mask{Array: CausalMask(s, n, held, c.window)}
	}
	return mlxc.Mask{Causal: true}
}

// Attend sees the window.
func (c *RotatingCache) Attend(s *mlxc.Scope, attention Attention, q, k, v *mlxc.Array, scale float32, mask mlxc.Mask) *mlxc.Array {
	k, v = c.Update(s, k, v)
	return attention(s, q, k, v, scale, mask)
}

// Update adds positions, forgets those out of every window and returns what is held.
func (c *RotatingCache) Update(s *mlxc.Scope, keys, values *mlxc.Array) (k, v *mlxc.Array) {
	if keys.Dim(timeAxis) == 1 {
		return c.overwrite(s, keys, values)
	}
	if c.empty() {
		// The pass owns its arrays; the cache needs handles of its own.
		c.replace(s, s.Slice(keys, timeAxis, 0, keys.Dim(timeAxis)), s.Slice(values, timeAxis, 0, values.Dim(timeAxis)))
	} else {
		appendTo := func(held, added *mlxc.Array) *mlxc.Array {
			ordered := c.ordered(s, held)
			length := ordered.Dim(timeAxis)
			if drop := length - c.window + 1; drop > 0 {
				ordered = c.drop(s, ordered, drop)
			}
			return s.Concatenate(timeAxis, ordered, added)
		}
		c.replace(s, appendTo(c.keys, keys), appendTo(c.values, values))
	}
	c.offset += keys.Dim(timeAxis)
	c.next = c.keys.Dim(timeAxis)
	return c.keys, c.values
}

// drop forgets the oldest n of positions in order, but for those that are kept.
func (c *RotatingCache) drop(s *mlxc.Scope, a *mlxc.Array, n int) *mlxc.Array {
	rest := s.Slice(a, timeAxis, n+c.keep, a.Dim(timeAxis))
	if c.keep == 0 {
		return rest
	}
	return s.Concatenate(timeAxis, s.Slice(a, timeAxis, 0, c.keep), rest)
}

// ordered is the held positions from oldest to newest.
func (c *RotatingCache) ordered(s *mlxc.Scope, a *mlxc.Array) *mlxc.Array {
	length := a.Dim(timeAxis)
	switch {
	case c.next == length:
		return a
	case c.next < c.offset:
		parts := []*mlxc.Array{s.Slice(a, timeAxis, c.next, length), s.Slice(a, timeAxis, c.keep, c.next)}
		if c.keep > 0 {
			parts = append([]*mlxc.Array{s.Slice(a, timeAxis, 0, c.keep)}, parts...)
		}
		return s.Concatenate(timeAxis, parts...)
	default:
		return s.Slice(a, timeAxis, 0, c.next)
	}
}

func (c *RotatingCache) overwrite(s *mlxc.Scope, keys, values *mlxc.Array) (k, v *mlxc.Array) {
	c.turn(s, keys, values)
	c.Fill(s,
		s.SliceUpdate(c.keys, keys, timeAxis, c.next, c.next+1),
		s.SliceUpdate(c.values, values, timeAxis, c.next, c.next+1))
	if c.offset < c.keys.Dim(timeAxis) {
		return c.both(func(a *mlxc.Array) *mlxc.Array { return s.Slice(a, timeAxis, 0, c.offset) })
	}
	return c.keys, c.values
}

// Slot is the oldest position, or a new one as long as the window is not full.
func (c *RotatingCache) Slot(s *mlxc.Scope) (keys, values *mlxc.Array, at Place) {
	c.turn(s, c.keys, c.values)
	return c.keys, c.values, c.Next()
}

// Fill counts the position.
func (c *RotatingCache) Fill(s *mlxc.Scope, keys, values *mlxc.Array) {
	c.replace(s, keys, values)
	c.Advance()
}

// Next is the place of the oldest position, or after the last one as long as the window is not full.
func (c *RotatingCache) Next() Place {
	at := c.next
	if at == c.window {
		at = c.keep
	}
	return Place{at, min(c.offset+1, c.window)}
}

// Advance counts a position.
func (c *RotatingCache) Advance() {
	c.next = c.Next().At + 1
	c.offset++
}

// turn makes next the place of one more position, in buffers in the shape of keys and values.
func (c *RotatingCache) turn(s *mlxc.Scope, keys, values *mlxc.Array) {
	if c.empty() || (c.offset >= c.keys.Dim(timeAxis) && c.keys.Dim(timeAxis) < c.window) {
		room := min(blocks(c.offset+1), c.window) - c.offset
		c.replace(s, grow(s, c.keys, keys, room), grow(s, c.values, values, room))
		c.next = c.offset
	}
	if extra := c.keys.Dim(timeAxis) - c.window; extra > 0 {
		k, v := c.both(func(a *mlxc.Array) *mlxc.Array { return c.drop(s, a, extra) })
		c.replace(s, k, v)
		c.next = c.window
	}
	c.next = c.Next().At
}
