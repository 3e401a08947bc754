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

	// Lend, after Slot, forgets the arrays, which now are elsewhere, but not how many positions there are.
	Lend() error
	// Next is the place of the next position in arrays that are lent.
	Next() Place
	// Advance counts a position that was written to arrays that are lent.
	Advance()
	// Restore gives the cache arrays that hold what the lent ones did.
	Restore(s *mlxc.Scope, keys, values *mlxc.Array)
}

// Place is where a position goes: index At, with which the first Filled positions hold something.
type Place struct{ At, Filled int }

// pair is keys and values held over passes.
type pair struct{ keys, values *mlxc.Array }

func (p *pair) empty() bool { return p.keys == nil }

// replace keeps new arrays and drops the old ones at once: with the last handle gone before the new
// ones are evaluated, MLX writes into the old buffer instead of copying it.
func (p *pair) replace(s *mlxc.Scope, keys, values *mlxc.Array) {
	if err := p.Free(); err != nil {
		s.Fail(err)
	}
	p.keys, p.values = s.Keep(keys), s.Keep(values)
}

// share is another pair on the same arrays.
func (p *pair) share(s *mlxc.Scope) pair {
	if p.empty() {
		return pair{}
	}
	return pair{s.Keep(s.Share(p.keys)), s.Keep(s.Share(p.values))}
}

// both applies an op to keys and values.
func (p *pair) both(op func(*mlxc.Array) *mlxc.Array) (k, v *mlxc.Array) {
	return op(p.keys), op(p.values)
}

// Lend forgets the arrays.
func (p *pair) Lend() error { return p.Free() }

// Restore takes arrays.
func (p *pair) Restore(s *mlxc.Scope, keys, values *mlxc.Array) { p.replace(s, keys, values) }

func (p *pair) Arrays() []*mlxc.Array {
	if p.empty() {
		return nil
	}
	return []*mlxc.Array{p.keys, p.values}
}

func (p *pair) Bytes() int64 {
	if p.empty() {
		return 0
	}
	return int64(p.keys.NBytes() + p.values.NBytes())
}

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

// Room is the whole new buffer when the present one is too small.
func (c *FullCache) Room(n int) int {
	if !c.empty() && c.offset+n <= c.keys.Dim(timeAxis) {
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

// Update writes behind the last position and returns all that is held.
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

// Slot is the position behind the last one.
func (c *FullCache) Slot(s *mlxc.Scope) (keys, values *mlxc.Array, at Place) {
	c.makeRoom(s, c.keys, c.values, 1)
	return c.keys, c.values, c.Next()
}

// Fill counts the position.
func (c *FullCache) Fill(s *mlxc.Scope, keys, values *mlxc.Array) {
	c.replace(s, keys, values)
	c.Advance()
}

// Next is the place behind the last position.
func (c *FullCache) Next() Place { return Place{c.offset, c.offset + 1} }

// Advance counts a position.
func (c *FullCache) Advance() { c.offset++ }

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

// Room is what a longer pass puts in order anew, or the next block.
func (c *RotatingCache) Room(n int) int {
	if n > 1 {
		return min(c.offset, c.window-1) + n
	}
	if c.empty() || c.offset >= c.keys.Dim(timeAxis) && c.keys.Dim(timeAxis) < c.window {
		return min(c.offset+growBy, c.window)
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

// Next is the place of the oldest position, or behind the last one as long as the window is not full.
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
