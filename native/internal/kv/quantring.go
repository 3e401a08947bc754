package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// QuantizedRing is a quantised cache for the CPU kernels, with full attention. They attend to plain keys and values: those of one layer
// are unpacked for a pass, and only what the pass adds is packed again.
type QuantizedRing struct{ QuantizedCache }

// Quantize makes a quantised cache of what a ring with full attention holds. The ring is left as it is.
func (c *RingCache) Quantize(s *mlxc.Scope, q mlxc.Quantization) *QuantizedRing {
	return &QuantizedRing{*quantizedCache(s, c.pair, c.offset, q)}
}

// Share copies the cache but not its arrays.
func (c *QuantizedRing) Share(s *mlxc.Scope) Cache {
	return &QuantizedRing{*c.QuantizedCache.Share(s).(*QuantizedCache)}
}

// Past is the unpacked cache, with room for n tokens more.
func (c *QuantizedRing) Past(s *mlxc.Scope, n int) mlxc.PastKV {
	past := mlxc.PastKV{Length: c.offset, Room: blocks(c.offset + n), Owned: true}
	if c.offset > 0 {
		past.Keys, past.Values = c.unpack(s, c.keys), c.unpack(s, c.values)
		past.Room = max(past.Room, past.Keys.Dim(timeAxis))
	}
	return past
}

// unpack is all that a part has room for, by the CPU kernels.
func (c *QuantizedRing) unpack(s *mlxc.Scope, p packedPart) *mlxc.Array {
	shape := p[0].Shape() // [1, kv_heads, room, head_dim * bits / 32]
	rows := shape[1] * shape[2]
	flat := func(a *mlxc.Array) *mlxc.Array { return s.Reshape(a, rows, a.Dim(3)) }
	table := mlxc.Layer{Weights: flat(p[0]), Scales: flat(p[1]), Biases: flat(p[2]), Format: c.format}
	values := s.Lookup(table, s.Arange(0, rows, mlxc.Int32), 1, p[1].DType())
	return s.Reshape(values, 1, shape[1], shape[2], shape[3]*32/c.format.Bits)
}

// Take packs what a pass added. After an error in the scope the cache stays as it was.
func (c *QuantizedRing) Take(s *mlxc.Scope, kept mlxc.PastKV) {
	if s.Err() != nil {
		return
	}
	added := func(a *mlxc.Array) *mlxc.Array { return s.Slice(a, timeAxis, c.offset, kept.Length) }
	c.update(s, added(kept.Keys), added(kept.Values))
}
