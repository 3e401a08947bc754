package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"fmt"
	"math"
	"unsafe"
)

// FromFloats copies float32 values into a new array of the given shape.
func (s *Scope) FromFloats(v []float32, shape ...int) *Array { return fromSlice(s, v, Float32, shape) }

// FromInts copies int32 values into a new array of the given shape.
func (s *Scope) FromInts(v []int32, shape ...int) *Array { return fromSlice(s, v, Int32, shape) }

// FromUints copies uint32 values into a new array of the given shape.
func (s *Scope) FromUints(v []uint32, shape ...int) *Array { return fromSlice(s, v, Uint32, shape) }

// FromBools copies booleans into a new array of the given shape.
func (s *Scope) FromBools(v []bool, shape ...int) *Array { return fromSlice(s, v, Bool, shape) }

func fromSlice[T any](s *Scope, v []T, dtype DType, shape []int) *Array {
	size := 1
	for _, n := range shape {
		size *= n
	}
	if size != len(v) {
		s.Fail(fmt.Errorf("mlx: from slice: %d values do not fill shape %v", len(v), shape))
	}
	if s.err != nil {
		return s.none()
	}
	var zero T
	data := unsafe.Pointer(&zero) // MLX reads nothing of an empty array, but needs an address
	if len(v) > 0 {
		data = unsafe.Pointer(unsafe.SliceData(v))
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	a := s.fresh()
	a.h = C.mlx_array_new_data(data, ptr, C.int(n), C.mlx_dtype(dtype))
	return s.made("from slice", a)
}

// made counts an array from a constructor, which signals failure by an empty handle.
func (s *Scope) made(op string, a *Array) *Array {
	if a.h.ctx == nil {
		s.err = lastError(op)
		return a
	}
	live.Add(1)
	return a
}

// Scalar is v as an array of no axes with the given type, rounded to it on the host: what Python does
// with a number beside an array.
func (s *Scope) Scalar(v float64, dtype DType) *Array {
	switch dtype {
	case BFloat16:
		return fromSlice(s, []uint16{bfloat16Bits(float32(v))}, BFloat16, nil)
	case Float32:
		return fromSlice(s, []float32{float32(v)}, Float32, nil)
	case Int32:
		return fromSlice(s, []int32{int32(v)}, Int32, nil)
	case Uint32:
		return fromSlice(s, []uint32{uint32(v)}, Uint32, nil)
	}
	return s.AsType(fromSlice(s, []float32{float32(v)}, Float32, nil), dtype)
}

// bfloat16Bits rounds to nearest, ties to even.
func bfloat16Bits(f float32) uint16 {
	bits := math.Float32bits(f)
	if f != f {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// Zeros is an array of zeros.
func (s *Scope) Zeros(dtype DType, shape ...int) *Array {
	if !s.ready("zeros") {
		return s.none()
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	a := s.fresh()
	return s.done("zeros", a, C.mlx_zeros(&a.h, ptr, n, C.mlx_dtype(dtype), s.stream))
}

// Full is an array filled with v, in v's type.
func (s *Scope) Full(v *Array, shape ...int) *Array {
	if !s.ready("full", v) {
		return s.none()
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	a := s.fresh()
	return s.done("full", a, C.mlx_full(&a.h, ptr, n, v.h, C.mlx_array_dtype(v.h), s.stream))
}

// Arange is start, start+1, ... up to but without stop.
func (s *Scope) Arange(start, stop int, dtype DType) *Array {
	if !s.ready("arange") {
		return s.none()
	}
	a := s.fresh()
	return s.done("arange", a, C.mlx_arange(&a.h, C.double(start), C.double(stop), 1, C.mlx_dtype(dtype), s.stream))
}
