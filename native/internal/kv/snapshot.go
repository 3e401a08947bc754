package kv

import (
	"fmt"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Snapshot is a cache without its arrays, for a file.
type Snapshot struct {
	Window int `json:"window"` // 0: full attention
	Offset int `json:"offset"` // positions seen
	Held   int `json:"held"`   // positions in the arrays, in order
}

// Save describes a full or a rotating cache and returns its keys and values [B, kv_heads, held, head_dim],
// oldest position first.
func Save(s *mlxc.Scope, c Cache) (snapshot Snapshot, keys, values *mlxc.Array) {
	switch c := c.(type) {
	case *FullCache:
		k, v := c.both(func(a *mlxc.Array) *mlxc.Array { return s.Contiguous(s.Slice(a, timeAxis, 0, c.offset)) })
		return Snapshot{Offset: c.offset, Held: c.offset}, k, v
	case *RotatingCache:
		k, v := c.both(func(a *mlxc.Array) *mlxc.Array {
			a = c.ordered(s, a)
			if extra := a.Dim(timeAxis) - c.window; extra > 0 {
				a = s.Slice(a, timeAxis, extra, a.Dim(timeAxis))
			}
			return s.Contiguous(a)
		})
		return Snapshot{Window: c.window, Offset: c.offset, Held: min(c.offset, c.window)}, k, v
	case *RingCache:
		k, v := c.both(func(a *mlxc.Array) *mlxc.Array { return s.Contiguous(c.ordered(s, a)) })
		return Snapshot{Window: c.window, Offset: c.offset, Held: k.Dim(timeAxis)}, k, v
	}
	s.Fail(fmt.Errorf("kv cache %T cannot be saved", c))
	return Snapshot{}, nil, nil
}

// Check compares a snapshot that was read with the number of its tokens and the window of its
// layer, and returns how many positions its arrays must hold.
func (p Snapshot) Check(tokens, window int) (held int, err error) {
	held = tokens
	if window > 0 {
		held = min(tokens, window)
	}
	if p.Window != window || p.Offset != tokens || p.Held != held {
		return 0, fmt.Errorf("%d of %d positions with window %d, want %d of %d with %d", p.Held, p.Offset, p.Window, held, tokens, window)
	}
	return held, nil
}

// Restore makes the cache of a checked snapshot, as a ring or for MLX's ops; keys and values stay the scope's.
func Restore(s *mlxc.Scope, p Snapshot, keys, values *mlxc.Array, ring bool) Cache {
	if ring {
		return restoreRing(s, p, keys, values)
	}
	held := pair{keys: s.Keep(s.Share(keys)), values: s.Keep(s.Share(values))}
	if p.Window == 0 {
		return &FullCache{pair: held, offset: p.Offset}
	}
	return &RotatingCache{pair: held, window: p.Window, offset: p.Offset, next: p.Held}
}

// restoreRing makes a ring. If its window has moved on, it has the room that such a ring has, so that later positions can be taken
// back; positions before the window are not in the file.
func restoreRing(s *mlxc.Scope, p Snapshot, keys, values *mlxc.Array) *RingCache {
	room, first := p.Held, p.Offset-p.Held
	if first > 0 {
		room = p.Window + ringSlack
	}
	turn := func(a *mlxc.Array) *mlxc.Array {
		zeros := func(n int) *mlxc.Array { return s.Zeros(a.DType(), a.Dim(0), a.Dim(1), n, a.Dim(3)) }
		begin, end := first%room, first%room+p.Held
		switch {
		case room == p.Held: // all positions from 0 on
		case end > room: // the last ones are at the beginning
			cut := room - begin
			a = s.Concatenate(timeAxis, s.Slice(a, timeAxis, cut, p.Held), zeros(room-p.Held), s.Slice(a, timeAxis, 0, cut))
		case begin == 0:
			a = s.Concatenate(timeAxis, a, zeros(room-end))
		case end == room:
			a = s.Concatenate(timeAxis, zeros(begin), a)
		default:
			a = s.Concatenate(timeAxis, zeros(begin), a, zeros(room-end))
		}
		return s.Keep(s.Share(a))
	}
	return &RingCache{pair: pair{keys: turn(keys), values: turn(values)}, window: p.Window, offset: p.Offset, first: first}
}
