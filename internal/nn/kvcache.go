package nn

import "forge.lthn.ai/core/go-mlx/internal/metal"

// growBy is how many positions a cache grows at a time.
const growBy = 256

// timeAxis is the axis of positions in keys and values [B, kv_heads, T, head_dim].
const timeAxis = 2

// KVCache keeps the keys and values of one layer between passes. The cache owns its arrays; what Attend
// returns belongs to the scope of the pass.
type KVCache interface {
	// Attend appends keys and values [B, kv_heads, T, head_dim] and returns what the queries
	// [B, heads, T, head_dim] attend to.
	Attend(s *metal.Scope, q, k, v *metal.Array, scale float32, mask metal.Mask) *metal.Array
	// Mask is the attention mask for a pass of n tokens, asked for before Attend.
	Mask(s *metal.Scope, n int) metal.Mask
	// Offset is the number of positions seen so far.
	Offset() int
	// Arrays are what must be evaluated for the cache to hold values.
	Arrays() []*metal.Array
	// Bytes is the size of the keys and values held.
	Bytes() int64
	Free() error
}

// pair is keys and values held over passes.
type pair struct{ keys, values *metal.Array }

func (p *pair) empty() bool { return p.keys == nil }

// replace keeps new arrays and drops the old ones at once: with the last handle gone before the new
// ones are evaluated, MLX writes into the old buffer instead of copying it.
func (p *pair) replace(s *metal.Scope, keys, values *metal.Array) {
	if err := p.Free(); err != nil {
		s.Fail(err)
	}
	p.keys, p.values = s.Keep(keys), s.Keep(values)
}

// both applies an op to keys and values.
func (p *pair) both(op func(*metal.Array) *metal.Array) (k, v *metal.Array) {
	return op(p.keys), op(p.values)
}

func (p *pair) Arrays() []*metal.Array {
	if p.empty() {
		return nil
	}
	return []*metal.Array{p.keys, p.values}
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
func grow(s *metal.Scope, a, like *metal.Array, n int) *metal.Array {
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

// Mask is causal for several tokens and none for one, which sees all.
func (c *FullCache) Mask(_ *metal.Scope, n int) metal.Mask { return metal.Mask{Causal: n > 1} }

// Attend sees all positions.
func (c *FullCache) Attend(s *metal.Scope, q, k, v *metal.Array, scale float32, mask metal.Mask) *metal.Array {
	k, v = c.Update(s, k, v)
	return s.SDPA(q, k, v, scale, mask)
}

// Update writes behind the last position and returns all that is held.
func (c *FullCache) Update(s *metal.Scope, keys, values *metal.Array) (k, v *metal.Array) {
	n, prev := keys.Dim(timeAxis), c.offset
	if c.empty() || prev+n > c.keys.Dim(timeAxis) {
		blocks := (growBy + n - 1) / growBy * growBy
		var oldKeys, oldValues *metal.Array
		if !c.empty() {
			oldKeys, oldValues = c.both(func(a *metal.Array) *metal.Array {
				if prev%growBy == 0 {
					return a
				}
				return s.Slice(a, timeAxis, 0, prev)
			})
		}
		c.replace(s, grow(s, oldKeys, keys, blocks), grow(s, oldValues, values, blocks))
	}
	c.offset += n
	c.replace(s,
		s.SliceUpdate(c.keys, keys, timeAxis, prev, c.offset),
		s.SliceUpdate(c.values, values, timeAxis, prev, c.offset))
	if c.offset == c.keys.Dim(timeAxis) {
		return c.keys, c.values
	}
	return c.both(func(a *metal.Array) *metal.Array { return s.Slice(a, timeAxis, 0, c.offset) })
}

// RotatingCache keeps the last window positions of a sliding-window layer. Single tokens overwrite the
// oldest position in place; longer passes put the positions in order and append, so that each of their
// queries still sees its whole window.
type RotatingCache struct {
	pair
	window int
	offset int // positions seen
	next   int // where the next single token goes
}

// NewRotatingCache makes an empty cache for a window.
func NewRotatingCache(window int) *RotatingCache { return &RotatingCache{window: window} }

// Offset is the number of positions seen, not held.
func (c *RotatingCache) Offset() int { return c.offset }

// Mask limits several tokens to their windows; one token sees all that is held.
func (c *RotatingCache) Mask(s *metal.Scope, n int) metal.Mask {
	if n == 1 {
		return metal.Mask{}
	}
	held := min(c.window-1, c.offset)
	if held+n > c.window {
		return metal.Mask{Array: CausalMask(s, n, held, c.window)}
	}
	return metal.Mask{Causal: true}
}

// Attend sees the window.
func (c *RotatingCache) Attend(s *metal.Scope, q, k, v *metal.Array, scale float32, mask metal.Mask) *metal.Array {
	k, v = c.Update(s, k, v)
	return s.SDPA(q, k, v, scale, mask)
}

// Update adds positions, forgets those out of every window and returns what is held.
func (c *RotatingCache) Update(s *metal.Scope, keys, values *metal.Array) (k, v *metal.Array) {
	if keys.Dim(timeAxis) == 1 {
		return c.overwrite(s, keys, values)
	}
	if c.empty() {
		// The pass owns its arrays; the cache needs handles of its own.
		c.replace(s, s.Slice(keys, timeAxis, 0, keys.Dim(timeAxis)), s.Slice(values, timeAxis, 0, values.Dim(timeAxis)))
	} else {
		appendTo := func(held, added *metal.Array) *metal.Array {
			ordered := c.ordered(s, held)
			length := ordered.Dim(timeAxis)
			if drop := length - c.window + 1; drop > 0 {
				ordered = s.Slice(ordered, timeAxis, drop, length)
			}
			return s.Concatenate(timeAxis, ordered, added)
		}
		c.replace(s, appendTo(c.keys, keys), appendTo(c.values, values))
	}
	c.offset += keys.Dim(timeAxis)
	c.next = c.keys.Dim(timeAxis)
	return c.keys, c.values
}

// ordered is the held positions from oldest to newest.
func (c *RotatingCache) ordered(s *metal.Scope, a *metal.Array) *metal.Array {
	length := a.Dim(timeAxis)
	switch {
	case c.next == length:
		return a
	case c.next < c.offset:
		return s.Concatenate(timeAxis, s.Slice(a, timeAxis, c.next, length), s.Slice(a, timeAxis, 0, c.next))
	default:
		return s.Slice(a, timeAxis, 0, c.next)
	}
}

func (c *RotatingCache) overwrite(s *metal.Scope, keys, values *metal.Array) (k, v *metal.Array) {
	if c.empty() || (c.offset >= c.keys.Dim(timeAxis) && c.keys.Dim(timeAxis) < c.window) {
		room := min(growBy, c.window-c.offset)
		c.replace(s, grow(s, c.keys, keys, room), grow(s, c.values, values, room))
		c.next = c.offset
	}
	if extra := c.keys.Dim(timeAxis) - c.window; extra > 0 {
		k, v := c.both(func(a *metal.Array) *metal.Array { return s.Slice(a, timeAxis, extra, a.Dim(timeAxis)) })
		c.replace(s, k, v)
		c.next = c.window
	}
	if c.next == c.window {
		c.next = 0
	}
	c.replace(s,
		s.SliceUpdate(c.keys, keys, timeAxis, c.next, c.next+1),
		s.SliceUpdate(c.values, values, timeAxis, c.next, c.next+1))
	c.offset++
	c.next++
	if c.offset < c.keys.Dim(timeAxis) {
		return c.both(func(a *metal.Array) *metal.Array { return s.Slice(a, timeAxis, 0, c.offset) })
	}
	return c.keys, c.values
}
