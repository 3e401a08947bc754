package mlxc

/*
#include "glue.h"
*/
import "C"

// Sum adds along an axis.
func (s *Scope) Sum(a *Array, axis int, keepDims bool) *Array {
	if !s.ready("sum", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("sum", r, C.mlx_sum_axis(&r.h, a.h, C.int(axis), C.bool(keepDims), s.stream))
}

// SumAll adds all elements.
func (s *Scope) SumAll(a *Array) *Array {
	if !s.ready("sum", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("sum", r, C.mlx_sum(&r.h, a.h, false, s.stream))
}

// Mean averages along an axis.
func (s *Scope) Mean(a *Array, axis int, keepDims bool) *Array {
	if !s.ready("mean", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("mean", r, C.mlx_mean_axis(&r.h, a.h, C.int(axis), C.bool(keepDims), s.stream))
}

// Max is the greatest value along an axis.
func (s *Scope) Max(a *Array, axis int, keepDims bool) *Array {
	if !s.ready("max", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("max", r, C.mlx_max_axis(&r.h, a.h, C.int(axis), C.bool(keepDims), s.stream))
}

// Min is the least value along an axis.
func (s *Scope) Min(a *Array, axis int, keepDims bool) *Array {
	if !s.ready("min", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("min", r, C.mlx_min_axis(&r.h, a.h, C.int(axis), C.bool(keepDims), s.stream))
}

// Argmax is the index of the first greatest value along an axis, as uint32.
func (s *Scope) Argmax(a *Array, axis int, keepDims bool) *Array {
	if !s.ready("argmax", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("argmax", r, C.mlx_argmax_axis(&r.h, a.h, C.int(axis), C.bool(keepDims), s.stream))
}

// LogSumExp is log(sum(e^a)) along an axis, computed without overflow.
func (s *Scope) LogSumExp(a *Array, axis int, keepDims bool) *Array {
	if !s.ready("logsumexp", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("logsumexp", r, C.mlx_logsumexp_axis(&r.h, a.h, C.int(axis), C.bool(keepDims), s.stream))
}

// Softmax is e^a / sum(e^a) along an axis; precise accumulates in float32.
func (s *Scope) Softmax(a *Array, axis int, precise bool) *Array {
	if !s.ready("softmax", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("softmax", r, C.mlx_softmax_axis(&r.h, a.h, C.int(axis), C.bool(precise), s.stream))
}

// Cumsum is the running sum along an axis; reverse runs from the end, inclusive counts the element
// itself.
func (s *Scope) Cumsum(a *Array, axis int, reverse, inclusive bool) *Array {
	if !s.ready("cumsum", a) {
		return s.none()
	}
	r := s.fresh()
	var none C.mlx_optional_dtype // has_value false: keep a's type
	return s.done("cumsum", r, C.mlx_cumsum_axis(&r.h, a.h, C.int(axis), C.bool(reverse), C.bool(inclusive), none, s.stream))
}
