package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"fmt"
	"iter"
	"unsafe"
)

// Floats evaluates the array and copies it to float32 values in row-major order of its shape, whatever
// its strides are: views that are transposed, broadcast, sliced or strided are made contiguous first.
func (a *Array) Floats() ([]float32, error) {
	return read(a, "floats", Float32, func(c *Array) unsafe.Pointer { return unsafe.Pointer(C.mlx_array_data_float32(c.h)) }, copyOf[float32])
}

// Ints is Floats for integer and boolean arrays. A float array is an error: rounding is the caller's
// choice.
func (a *Array) Ints() ([]int64, error) {
	switch {
	case a.DType().IsFloat() || a.DType() == Complex64:
		return nil, fmt.Errorf("mlx: ints: array has type %v; convert it first", a.DType())
	case a.DType() == Uint32: // token ids: read as they are, see read
		return read(a, "ints", Uint32, func(c *Array) unsafe.Pointer { return unsafe.Pointer(C.mlx_array_data_uint32(c.h)) }, widen)
	}
	return read(a, "ints", Int64, func(c *Array) unsafe.Pointer { return unsafe.Pointer(C.mlx_array_data_int64(c.h)) }, copyOf[int64])
}

func copyOf[T any](src unsafe.Pointer, n int) []T {
	return append([]T(nil), unsafe.Slice((*T)(src), n)...)
}

func widen(src unsafe.Pointer, n int) []int64 {
	out := make([]int64, n)
	for i, v := range unsafe.Slice((*uint32)(src), n) {
		out[i] = int64(v)
	}
	return out
}

// read evaluates a and copies its elements. An array that has the type and row-major order already is
// read without another op: an op would wait in the stream for work that was queued after the array, and
// decoding queues the next token before it reads the present one.
func read[T any](a *Array, op string, dtype DType, data func(*Array) unsafe.Pointer, out func(unsafe.Pointer, int) []T) ([]T, error) {
	if !a.Valid() {
		if a != nil && a.scope != nil && a.scope.err != nil {
			return nil, a.scope.err // why there is no array
		}
		return nil, fmt.Errorf("mlx: %s: %w", op, ErrFreed)
	}
	s := a.scope.Child()
	defer s.Close()
	if err := s.Eval(a); err != nil {
		return nil, err
	}
	var rowMajor C.bool
	if err := check(op, C._mlx_array_is_row_contiguous(&rowMajor, a.h)); err != nil {
		return nil, err
	}
	c := a
	if !bool(rowMajor) || a.DType() != dtype {
		c = s.Contiguous(s.AsType(a, dtype))
		if err := s.Eval(c); err != nil {
			return nil, err
		}
	}
	size := c.Size()
	if size == 0 {
		return nil, nil
	}
	src := data(c)
	if src == nil {
		return nil, lastError(op)
	}
	return out(src, size), nil
}

// Iter yields the values that Floats returns. On failure it yields nothing and latches the error on
// the array's scope.
func (a *Array) Iter() iter.Seq[float32] {
	return func(yield func(float32) bool) {
		values, err := a.Floats()
		if err != nil {
			if a != nil && a.scope != nil {
				a.scope.Fail(err)
			}
			return
		}
		for _, v := range values {
			if !yield(v) {
				return
			}
		}
	}
}

// Int evaluates an array of one integer.
func (a *Array) Int() (int, error) {
	if a.Size() != 1 {
		return 0, fmt.Errorf("mlx: int: array has %d elements, want 1", a.Size())
	}
	v, err := a.Ints()
	if err != nil {
		return 0, err
	}
	return int(v[0]), nil
}

// Float evaluates an array of one number.
func (a *Array) Float() (float32, error) {
	if a.Size() != 1 {
		return 0, fmt.Errorf("mlx: float: array has %d elements, want 1", a.Size())
	}
	v, err := a.Floats()
	if err != nil {
		return 0, err
	}
	return v[0], nil
}
