package kv

import "forge.lthn.ai/core/go-mlx/internal/mlxc"

// CausalMask is a bool array [n, offset+n]: query i, at position offset+i, may attend to key j when
// j is not after it and, with a window, fewer than window positions before it.
func CausalMask(s *mlxc.Scope, n, offset, window int) *mlxc.Array {
	keys := s.ExpandDims(s.Arange(0, offset+n, mlxc.Int32), 0)
	queries := s.ExpandDims(s.Arange(offset, offset+n, mlxc.Int32), 1)
	mask := s.GreaterEqual(queries, keys)
	if window > 0 {
		reach := s.Add(keys, s.Scalar(float64(window), mlxc.Int32))
		mask = s.LogicalAnd(mask, s.Less(queries, reach))
	}
	return mask
}
