package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// ringSlack is how many positions beyond its window a ring of a sliding-window layer holds, so that the last ones can be
// taken back.
const ringSlack = 64

// Ring is a cache for the CPU kernels, which attend to it and add to it in one op.
type Ring interface {
	Cache
	// Past is the cache for an attention pass over n tokens. What is computed for it belongs to the scope.
	Past(s *mlxc.Scope, n int) mlxc.PastKV
	// Take keeps what a pass made of Past.
	Take(s *mlxc.Scope, kept mlxc.PastKV)
}

// RingCache is the KV of one layer for the CPU kernels, [1, kv_heads, room, head_dim], in which position p lies at p % room. With
// full attention the room grows with the positions; with a window it grows to the window and some, and then goes round. A bounded one
// never forgets its first positions.
type RingCache struct {
	pair
	window int // 0: full attention
	bound  int // largest room; 0 for none
	sinks  int // first positions that stay, of a bounded one
	offset int
	first  int  // positions before it are not held, but for sinks: they were written over, or a file did not have them
	owned  bool // no other cache has the same arrays
}

// NewRingCache makes an empty cache; window 0 is full attention.
func NewRingCache(window int) *RingCache { return &RingCache{window: window} }

// NewBoundedRing makes an empty cache for passes in which a token sees at most size positions with itself: the first keep ones, and
// the last.
func NewBoundedRing(size, keep int) *RingCache { return &RingCache{bound: size - 1, sinks: keep} }

// Window is the size of the sliding window, 0 for full attention.
func (c *RingCache) Window() int { return c.window }

// Offset is the number of positions seen.
func (c *RingCache) Offset() int { return c.offset }

// Share copies the cache but not its arrays.
func (c *RingCache) Share(s *mlxc.Scope) Cache {
	c.owned = false // until the next pass, which writes elsewhere
	return &RingCache{pair: c.share(s), window: c.window, bound: c.bound, sinks: c.sinks, offset: c.offset, first: c.first}
}

// room is how many positions there must be room for with n more.
func (c *RingCache) room(n int) int {
	held := 0
	if !c.empty() {
		held = c.keys.Dim(timeAxis)
	}
	if c.offset > held || c.offset+n <= held { // it has gone round, or there is room
		return held
	}
	room := blocks(c.offset + n)
	if c.window > 0 {
		room = min(room, c.window+ringSlack)
	}
	if c.bound > 0 {
		room = min(room, c.bound)
	}
	return max(room, held)
}

// Room is the whole new buffer when the present one is too small or shared.
func (c *RingCache) Room(n int) int {
	room := c.room(n)
	if !c.empty() && !c.shared && room == c.keys.Dim(timeAxis) {
		return 0
	}
	return room
}

// Trim forgets the last n positions. It can as long as what they were written over is out of every window.
func (c *RingCache) Trim(_ *mlxc.Scope, n int) bool {
	switch {
	case n == 0:
		return true
	case n < 0 || n > c.offset || c.empty():
		return false
	}
	if c.first > 0 && (c.bound > 0 || c.offset-n-c.window+1 < c.first) {
		return false
	}
	c.offset -= n
	return true
}

// Past is the cache for an attention pass over n tokens.
func (c *RingCache) Past(_ *mlxc.Scope, n int) mlxc.PastKV {
	return mlxc.PastKV{Keys: c.keys, Values: c.values, Length: c.offset, Room: c.room(n), Owned: c.owned, Sinks: c.sinks}
}

// Take keeps what a pass made of Past. After an error in the scope the cache stays as it was.
func (c *RingCache) Take(s *mlxc.Scope, kept mlxc.PastKV) {
	if s.Err() != nil {
		return
	}
	c.replace(s, kept.Keys, kept.Values)
	c.offset, c.owned = kept.Length, kept.Owned
	c.first = max(c.first, c.offset-c.keys.Dim(timeAxis))
}

// ordered is the positions held, at most the window, from oldest to newest.
func (c *RingCache) ordered(s *mlxc.Scope, a *mlxc.Array) *mlxc.Array {
	held, room := c.offset, a.Dim(timeAxis)
	if c.window > 0 {
		held = min(held, c.window)
	}
	begin, end := (c.offset-held)%room, (c.offset-1)%room+1
	if begin < end {
		return s.Slice(a, timeAxis, begin, end)
	}
	return s.Concatenate(timeAxis, s.Slice(a, timeAxis, begin, room), s.Slice(a, timeAxis, 0, end))
}
