package metal

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
	return read(a, "floats", Float32, func(c *Array) *C.float { return C.mlx_array_data_float32(c.h) }, func(v C.float) float32 { return float32(v) })
}

// Ints is Floats for integer and boolean arrays. A float array is an error: rounding is the caller's
// choice.
func (a *Array) Ints() ([]int64, error) {
	if a.DType().IsFloat() || a.DType() == Complex64 {
		return nil, fmt.Errorf("mlx: ints: array has type %v; convert it first", a.DType())
	}
	return read(a, "ints", Int64, func(c *Array) *C.int64_t { return C.mlx_array_data_int64(c.h) }, func(v C.int64_t) int64 { return int64(v) })
}

func read[E, T any](a *Array, op string, dtype DType, data func(*Array) *E, convert func(E) T) ([]T, error) {
	if !a.Valid() {
		return nil, fmt.Errorf("mlx: %s: %w", op, ErrFreed)
	}
	s := a.scope.Child()
	defer s.Close()
	c := s.Contiguous(s.AsType(a, dtype))
	if err := s.Eval(c); err != nil {
		return nil, err
	}
	size := c.Size()
	if size == 0 {
		return nil, nil
	}
	src := data(c)
	if src == nil {
		return nil, lastError(op)
	}
	out := make([]T, size)
	for i, v := range unsafe.Slice(src, size) {
		out[i] = convert(v)
	}
	return out, nil
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
