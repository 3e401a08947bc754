package kv

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// wideMemory is that of a pass over one long row in which every token sees all others, those at most half a window away in a layer
// with a window. Nothing can be kept of such a pass, and no chunk be done before the others; what is cut is the queries of
// each layer, so that there are not more scores at a time than in a chunk of a prompt, and nothing of a layer but its output
// is held after it.
type wideMemory struct {
	windows []int
	chunk   int // queries at a time
}

// NewWidePass prepares a pass over one row, in which so many queries are taken at a time.
func NewWidePass(windows []int, chunk int) *Pass {
	return &Pass{Memory: wideMemory{windows, chunk}, Around: releaseLayers(nil)}
}

// Attend sees the whole row.
func (m wideMemory) Attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	n, reach := q.Dim(2), m.windows[layer]/2
	var parts []*mlxc.Array
	for from := 0; from < n; from += m.chunk {
		to := min(from+m.chunk, n)
		first, last := 0, n
		var mask mlxc.Mask
		if m.windows[layer] > 0 {
			first, last = max(0, from-reach), min(n, to+reach)
			queries := s.ExpandDims(s.Arange(from, to, mlxc.Int32), 1)
			keys := s.ExpandDims(s.Arange(first, last, mlxc.Int32), 0)
			mask.Array = s.LessEqual(s.Abs(s.Subtract(queries, keys)), s.Scalar(float64(reach), mlxc.Int32))
		}
		part := s.SDPA(s.Slice(q, 2, from, to), s.Slice(k, 2, first, last), s.Slice(v, 2, first, last), scale, mask)
		if err := evalAndRelease(s, part); err != nil { // now, or all parts' scores might be held at once
			s.Fail(err)
			return q
		}
		parts = append(parts, part)
	}
	return MergeHeads(s, s.Concatenate(2, parts...))
}

// releaseLayers makes an Around that runs a layer to its end and frees its inputs, except those that kept returns, if it is set.
func releaseLayers(kept func(layer int) []*mlxc.Array) func(*mlxc.Scope, int, *mlxc.Array, func(*mlxc.Scope, *mlxc.Array) *mlxc.Array) *mlxc.Array {
	return func(s *mlxc.Scope, layer int, h *mlxc.Array, run func(*mlxc.Scope, *mlxc.Array) *mlxc.Array) *mlxc.Array {
		if s.Err() != nil { // of a layer before: what it returned is no layer's output
			return h
		}
		child := s.Child()
		out := run(child, h)
		if err := evalAndRelease(child, out); err != nil {
			s.Fail(errors.Join(err, child.Close()))
			return h
		}
		s.Adopt(out)
		if kept != nil {
			for _, a := range kept(layer) {
				s.Adopt(a)
			}
		}
		errs := []error{child.Close()}
		if layer > 0 { // the output of the layer before
			errs = append(errs, s.Keep(h).Free())
		}
		if err := errors.Join(errs...); err != nil {
			s.Fail(err)
		}
		return out
	}
}

// evalAndRelease computes an array, and waits until what was only needed for that is given back. On a GPU Eval returns when the array is there, and
// a thread of MLX's gives back the rest a little later: by then the next step would have taken as much again.
func evalAndRelease(s *mlxc.Scope, a *mlxc.Array) error {
	if err := s.Eval(a); err != nil {
		return err
	}
	return s.Synchronize()
}
