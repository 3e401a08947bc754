package nn

import "forge.lthn.ai/core/go-mlx/internal/metal"

// CausalMask is a bool array [n, offset+n]: query i, at position offset+i, may attend to key j when
// j is not after it and, with a window, fewer than window positions before it.
func CausalMask(s *metal.Scope, n, offset, window int) *metal.Array {
	keys := s.ExpandDims(s.Arange(0, offset+n, metal.Int32), 0)
	queries := s.ExpandDims(s.Arange(offset, offset+n, metal.Int32), 1)
	mask := s.GreaterEqual(queries, keys)
	if window > 0 {
		reach := s.Add(keys, s.Scalar(float64(window), metal.Int32))
		mask = s.LogicalAnd(mask, s.Less(queries, reach))
	}
	return mask
}
