package kv

import (
	"errors"
	"math"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// packedPart is keys or values in MLX's affine format: packed values, scales and biases, each
// [B, kv_heads, T, ...].
type packedPart [3]*mlxc.Array

// QuantizedCache keeps every position in few bits, in a buffer that grows by blocks.
type QuantizedCache struct {
	keys, values packedPart
	format       mlxc.Quantization
	offset       int
}

// Quantize makes a quantised cache of what a full one holds. The full one is left as it is.
func (c *FullCache) Quantize(s *mlxc.Scope, q mlxc.Quantization) *QuantizedCache {
	return quantizedCache(s, c.pair, c.offset, q)
}

// quantizedCache is a quantised cache of the first positions of keys and values.
func quantizedCache(s *mlxc.Scope, full pair, offset int, q mlxc.Quantization) *QuantizedCache {
	out := &QuantizedCache{format: q}
	if full.empty() {
		return out
	}
	pack := func(a *mlxc.Array) packedPart {
		p, scales, biases := s.Quantize(s.Slice(a, timeAxis, 0, offset), q)
		return packedPart{p, scales, biases}
	}
	out.hold(s, pack(full.keys), pack(full.values))
	out.offset = offset
	return out
}

func (c *QuantizedCache) parts() []*mlxc.Array {
	if c.keys[0] == nil {
		return nil
	}
	return append(append([]*mlxc.Array(nil), c.keys[:]...), c.values[:]...)
}

// hold keeps new arrays and drops the old ones, as pair.replace does.
func (c *QuantizedCache) hold(s *mlxc.Scope, keys, values packedPart) {
	if err := c.Free(); err != nil {
		s.Fail(err)
	}
	for i := range keys {
		c.keys[i], c.values[i] = s.Keep(keys[i]), s.Keep(values[i])
	}
}

// Attend is attention over packed keys and values, as mlx-lm computes it.
func (c *QuantizedCache) Attend(s *mlxc.Scope, _ Attention, q, k, v *mlxc.Array, scale float32, mask mlxc.Mask) *mlxc.Array {
	keys, values := c.update(s, k, v)
	if mlxc.HasCUDA() { // whose back end in MLX has products with packed weights, but not of any number of rows of them
		plain := func(p packedPart) *mlxc.Array { return s.Dequantize(p[0], p[1], p[2], c.format) }
		return s.SDPA(q, plain(keys), plain(values), scale, mask)
	}
	batch, heads, n, dim := q.Dim(0), q.Dim(1), q.Dim(2), q.Dim(3)
	kvHeads := k.Dim(1)
	q = s.Multiply(q, s.Scalar(float64(scale), q.DType()))
	visible := mask.Array
	if mask.Causal {
		visible = CausalMask(s, n, c.offset-n, 0)
	}
	if heads > kvHeads {
		q = s.Reshape(q, batch, kvHeads, heads/kvHeads, n, dim)
		for i := range keys {
			keys[i], values[i] = s.ExpandDims(keys[i], -3), s.ExpandDims(values[i], -3)
		}
	}
	scores := s.QuantizedMatmul(q, keys[0], keys[1], keys[2], c.format)
	if visible != nil {
		scores = s.Where(visible, scores, s.Scalar(lowest(scores.DType()), scores.DType()))
	}
	out := s.QuantizedProduct(s.Softmax(scores, -1, true), values[0], values[1], values[2], c.format)
	return s.Reshape(out, batch, heads, n, dim)
}

// lowest is the most negative finite number of a floating type.
func lowest(d mlxc.DType) float64 {
	switch d {
	case mlxc.Float16:
		return -65504
	case mlxc.BFloat16:
		return -(2 - math.Pow(2, -7)) * math.Pow(2, 127)
	}
	return -math.MaxFloat32
}

// update writes after the last position and returns all that is held.
func (c *QuantizedCache) update(s *mlxc.Scope, k, v *mlxc.Array) (keys, values packedPart) {
	n, prev := k.Dim(timeAxis), c.offset
	c.offset += n
	write := func(held packedPart, added *mlxc.Array) packedPart {
		p, scales, biases := s.Quantize(added, c.format)
		for i, part := range []*mlxc.Array{p, scales, biases} {
			switch {
			case held[i] == nil:
				held[i] = grow(s, nil, part, blocks(n))
			case c.offset > held[i].Dim(timeAxis):
				held[i] = grow(s, s.Slice(held[i], timeAxis, 0, prev), part, blocks(n))
			}
			held[i] = s.SliceUpdate(held[i], part, timeAxis, prev, c.offset)
		}
		return held
	}
	c.hold(s, write(c.keys, k), write(c.values, v))
	for i := range c.keys {
		keys[i] = s.Slice(c.keys[i], timeAxis, 0, c.offset)
		values[i] = s.Slice(c.values[i], timeAxis, 0, c.offset)
	}
	return keys, values
}

// blocks is how many positions are made room for when n come.
func blocks(n int) int { return (growBy + n - 1) / growBy * growBy }

// Mask is that of a full cache.
func (c *QuantizedCache) Mask(_ *mlxc.Scope, n int) mlxc.Mask { return mlxc.Mask{Causal: n > 1} }

// Offset is the number of positions held.
func (c *QuantizedCache) Offset() int { return c.offset }

// Share copies the cache but not its arrays.
func (c *QuantizedCache) Share(s *mlxc.Scope) Cache {
	out := &QuantizedCache{format: c.format, offset: c.offset}
	for i := range c.keys {
		if c.keys[i] != nil {
			out.keys[i], out.values[i] = s.Keep(s.Share(c.keys[i])), s.Keep(s.Share(c.values[i]))
		}
	}
	return out
}

// Trim always can: later positions are written over.
func (c *QuantizedCache) Trim(_ *mlxc.Scope, n int) bool {
	if n < 0 || n > c.offset {
		return false
	}
	c.offset -= n
	return true
}

// Room counts positions as if they were not packed.
func (c *QuantizedCache) Room(n int) int {
	if c.keys[0] != nil && c.offset+n <= c.keys[0].Dim(timeAxis) {
		return 0
	}
	return c.offset + blocks(n)
}

// Arrays are all parts.
func (c *QuantizedCache) Arrays() []*mlxc.Array { return c.parts() }

// Bytes is the size of all parts.
func (c *QuantizedCache) Bytes() int64 {
	var n int64
	for _, a := range c.parts() {
		n += int64(a.NBytes())
	}
	return n
}

// Free frees all parts.
func (c *QuantizedCache) Free() error {
	var errs []error
	for _, a := range c.parts() {
		errs = append(errs, a.Free())
	}
	c.keys, c.values = packedPart{}, packedPart{}
	return errors.Join(errs...)
}
