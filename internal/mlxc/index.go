package mlxc

/*
#include "glue.h"
*/
import "C"

// Take picks whole slices of an axis by index: an embedding lookup with axis 0.
func (s *Scope) Take(a, indices *Array, axis int) *Array {
	if !s.ready("take", a, indices) {
		return s.none()
	}
	r := s.fresh()
	return s.done("take", r, C.mlx_take_axis(&r.h, a.h, indices.h, C.int(axis), s.stream))
}

// TakeAlong picks single elements along an axis; indices has a's shape but for that axis.
func (s *Scope) TakeAlong(a, indices *Array, axis int) *Array {
	if !s.ready("take_along_axis", a, indices) {
		return s.none()
	}
	r := s.fresh()
	return s.done("take_along_axis", r, C.mlx_take_along_axis(&r.h, a.h, indices.h, C.int(axis), s.stream))
}

// PutAlong is a with the elements at indices along an axis replaced by values.
func (s *Scope) PutAlong(a, indices, values *Array, axis int) *Array {
	if !s.ready("put_along_axis", a, indices, values) {
		return s.none()
	}
	r := s.fresh()
	return s.done("put_along_axis", r, C.mlx_put_along_axis(&r.h, a.h, indices.h, values.h, C.int(axis), s.stream))
}

// ScatterAdd is a with values added at indices along an axis; an index that occurs twice is added to twice.
func (s *Scope) ScatterAdd(a, indices, values *Array, axis int) *Array {
	if !s.ready("scatter_add_axis", a, indices, values) {
		return s.none()
	}
	r := s.fresh()
	return s.done("scatter_add_axis", r, C.mlx_scatter_add_axis(&r.h, a.h, indices.h, values.h, C.int(axis), s.stream))
}

// Where is x where the condition holds and y elsewhere.
func (s *Scope) Where(condition, x, y *Array) *Array {
	if !s.ready("where", condition, x, y) {
		return s.none()
	}
	r := s.fresh()
	return s.done("where", r, C.mlx_where(&r.h, condition.h, x.h, y.h, s.stream))
}

// Sort sorts an axis in ascending order.
func (s *Scope) Sort(a *Array, axis int) *Array {
	if !s.ready("sort", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("sort", r, C.mlx_sort_axis(&r.h, a.h, C.int(axis), s.stream))
}

// Argpartition is indices that put the kth smallest element of an axis in its sorted place, smaller
// ones before it and greater ones after it, each side in no order.
func (s *Scope) Argpartition(a *Array, kth, axis int) *Array {
	if !s.ready("argpartition", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("argpartition", r, C.mlx_argpartition_axis(&r.h, a.h, C.int(kth), C.int(axis), s.stream))
}
