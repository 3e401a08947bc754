package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"fmt"
	"slices"
)

// Reshape gives a the shape; one length may be -1 and is then worked out.
func (s *Scope) Reshape(a *Array, shape ...int) *Array {
	if !s.ready("reshape", a) {
		return s.none()
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	r := s.fresh()
	return s.done("reshape", r, C.mlx_reshape(&r.h, a.h, ptr, n, s.stream))
}

// Transpose permutes the axes; with none given it reverses them.
func (s *Scope) Transpose(a *Array, axes ...int) *Array {
	if !s.ready("transpose", a) {
		return s.none()
	}
	r := s.fresh()
	if len(axes) == 0 {
		return s.done("transpose", r, C.mlx_transpose(&r.h, a.h, s.stream))
	}
	perm := ints(axes)
	ptr, n := intsPtr(perm)
	return s.done("transpose", r, C.mlx_transpose_axes(&r.h, a.h, ptr, n, s.stream))
}

// ExpandDims inserts an axis of length 1.
func (s *Scope) ExpandDims(a *Array, axis int) *Array {
	if !s.ready("expand_dims", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("expand_dims", r, C.mlx_expand_dims(&r.h, a.h, C.int(axis), s.stream))
}

// Squeeze removes an axis of length 1.
func (s *Scope) Squeeze(a *Array, axis int) *Array {
	if !s.ready("squeeze", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("squeeze", r, C.mlx_squeeze_axis(&r.h, a.h, C.int(axis), s.stream))
}

// BroadcastTo repeats axes of length 1 without copying.
func (s *Scope) BroadcastTo(a *Array, shape ...int) *Array {
	if !s.ready("broadcast_to", a) {
		return s.none()
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	r := s.fresh()
	return s.done("broadcast_to", r, C.mlx_broadcast_to(&r.h, a.h, ptr, n, s.stream))
}

// Repeat repeats every element of an axis n times.
func (s *Scope) Repeat(a *Array, n, axis int) *Array {
	if !s.ready("repeat", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("repeat", r, C.mlx_repeat_axis(&r.h, a.h, C.int(n), C.int(axis), s.stream))
}

// Concatenate joins arrays along an axis.
func (s *Scope) Concatenate(axis int, arrays ...*Array) *Array {
	if !s.ready("concatenate", arrays...) {
		return s.none()
	}
	v := vector(arrays)
	defer C.mlx_vector_array_free(v)
	r := s.fresh()
	return s.done("concatenate", r, C.mlx_concatenate_axis(&r.h, v, C.int(axis), s.stream))
}

// Contiguous copies a view into row-major order; a contiguous array is returned as it is.
func (s *Scope) Contiguous(a *Array) *Array {
	if !s.ready("contiguous", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("contiguous", r, C.mlx_contiguous(&r.h, a.h, false, s.stream))
}

// AsType converts the elements.
func (s *Scope) AsType(a *Array, dtype DType) *Array {
	if !s.ready("astype", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("astype", r, C.mlx_astype(&r.h, a.h, C.mlx_dtype(dtype), s.stream))
}

// Slice is a[start:stop] along one axis; negative bounds count from the end.
func (s *Scope) Slice(a *Array, axis, start, stop int) *Array {
	return s.SliceStep(a, axis, start, stop, 1)
}

// SliceStep is a[start:stop:step] along one axis.
func (s *Scope) SliceStep(a *Array, axis, start, stop, step int) *Array {
	if !s.ready("slice", a) {
		return s.none()
	}
	w, ok := s.window("slice", a, axis, start, stop)
	if !ok {
		return s.none()
	}
	w.strides[w.axis] = C.int(step)
	r := s.fresh()
	return s.done("slice", r, C.mlx_slice(&r.h, a.h, &w.start[0], w.n, &w.stop[0], w.n, &w.strides[0], w.n, s.stream))
}

// SliceUpdate is a with a[start:stop] along one axis replaced by update. Where a's handle is the only
// one on its buffer when the result is evaluated, MLX writes in place.
func (s *Scope) SliceUpdate(a, update *Array, axis, start, stop int) *Array {
	if !s.ready("slice_update", a, update) {
		return s.none()
	}
	w, ok := s.window("slice_update", a, axis, start, stop)
	if !ok {
		return s.none()
	}
	r := s.fresh()
	return s.done("slice_update", r, C.mlx_slice_update(&r.h, a.h, update.h, &w.start[0], w.n, &w.stop[0], w.n, &w.strides[0], w.n, s.stream))
}

// maxDims is the largest number of axes that slicing serves; models use at most five.
const maxDims = 8

type sliceWindow struct {
	start, stop, strides [maxDims]C.int
	n                    C.size_t
	axis                 int
}

// window is the whole of a except along axis, where it is start to stop.
func (s *Scope) window(op string, a *Array, axis, start, stop int) (*sliceWindow, bool) {
	n := a.NDim()
	if axis < 0 {
		axis += n
	}
	if axis < 0 || axis >= n || n > maxDims {
		s.Fail(fmt.Errorf("mlx: %s: no axis %d in shape %v", op, axis, a.Shape()))
		return nil, false
	}
	w := &sliceWindow{n: C.size_t(n), axis: axis}
	for i := range n {
		w.stop[i], w.strides[i] = C.mlx_array_dim(a.h, C.int(i)), 1
	}
	length := a.Dim(axis)
	if start < 0 {
		start += length
	}
	if stop < 0 {
		stop += length
	}
	w.start[axis], w.stop[axis] = C.int(start), C.int(stop)
	return w, true
}

// Split cuts an axis into n equal parts.
func (s *Scope) Split(a *Array, n, axis int) []*Array {
	if !s.ready("split", a) {
		return slices.Repeat([]*Array{s.none()}, n)
	}
	out := C.mlx_vector_array_new()
	defer func() { C.mlx_vector_array_free(out) }()
	if rc := C.mlx_split(&out, a.h, C.int(n), C.int(axis), s.stream); rc != 0 {
		s.err = lastError("split")
		return slices.Repeat([]*Array{s.none()}, n)
	}
	return s.unpack("split", out)
}
