package mlxc

/*
#include "glue.h"
*/
import "C"

import "fmt"

// DType is the element type of an array.
type DType int

// MLX's element types.
const (
	Bool      DType = C.MLX_BOOL
	Uint8     DType = C.MLX_UINT8
	Uint16    DType = C.MLX_UINT16
	Uint32    DType = C.MLX_UINT32
	Uint64    DType = C.MLX_UINT64
	Int8      DType = C.MLX_INT8
	Int16     DType = C.MLX_INT16
	Int32     DType = C.MLX_INT32
	Int64     DType = C.MLX_INT64
	Float16   DType = C.MLX_FLOAT16
	Float32   DType = C.MLX_FLOAT32
	Float64   DType = C.MLX_FLOAT64
	BFloat16  DType = C.MLX_BFLOAT16
	Complex64 DType = C.MLX_COMPLEX64
)

var dtypeNames = map[DType]string{
	Bool: "bool", Uint8: "uint8", Uint16: "uint16", Uint32: "uint32", Uint64: "uint64",
	Int8: "int8", Int16: "int16", Int32: "int32", Int64: "int64",
	Float16: "float16", Float32: "float32", Float64: "float64", BFloat16: "bfloat16", Complex64: "complex64",
}

func (d DType) String() string {
	if name, ok := dtypeNames[d]; ok {
		return name
	}
	return fmt.Sprintf("dtype(%d)", int(d))
}

// Size is the number of bytes of one element.
func (d DType) Size() int { return int(C.mlx_dtype_size(C.mlx_dtype(d))) }

// IsFloat reports whether d is a floating type that a model computes in.
func (d DType) IsFloat() bool { return d == Float16 || d == BFloat16 || d == Float32 || d == Float64 }

// Array is a handle on an MLX array: a value, or the recipe for one until it is evaluated. The zero
// handle is what a failed op returns; its shape is empty and using it is an error.
type Array struct {
	h     C.mlx_array
	scope *Scope // the owner, or the last owner of a kept array: it names the stream
	index int    // place in scope.arrays
	kept  bool
}

// Valid reports whether the array exists and is not freed.
func (a *Array) Valid() bool { return a != nil && a.h.ctx != nil }

// Free frees an array that was taken out of its scope with Keep. It does nothing to one that is freed
// already, and leaves an array that a scope owns to that scope. It must run on the owner thread.
func (a *Array) Free() error {
	if a == nil || a.h.ctx == nil || !a.kept {
		return nil
	}
	rc := C.mlx_array_free(a.h)
	a.h.ctx = nil
	forget(a)
	if rc == 0 {
		live.Add(-1)
	}
	return check("free", rc)
}

// Share returns another handle on the same array, owned by s. MLX arrays do not change: an update makes a
// new array, and writes over an old one's buffer only if no other handle holds it.
func (s *Scope) Share(a *Array) *Array {
	if !s.ready("share", a) {
		return s.none()
	}
	r := s.fresh()
	r.h = C.mlx_array_new()
	return s.done("share", r, C.mlx_array_set(&r.h, a.h))
}

// NDim is the number of axes.
func (a *Array) NDim() int {
	if !a.Valid() {
		return 0
	}
	return int(C.mlx_array_ndim(a.h))
}

// Dim is the length of an axis; negative axes count from the end. It is 0 for an axis that does not
// exist.
func (a *Array) Dim(axis int) int {
	n := a.NDim()
	if axis < 0 {
		axis += n
	}
	if axis < 0 || axis >= n {
		return 0
	}
	return int(C.mlx_array_dim(a.h, C.int(axis)))
}

// Shape is a copy of the axis lengths.
func (a *Array) Shape() []int {
	shape := make([]int, a.NDim())
	for i := range shape {
		shape[i] = int(C.mlx_array_dim(a.h, C.int(i)))
	}
	return shape
}

// Size is the number of elements.
func (a *Array) Size() int {
	if !a.Valid() {
		return 0
	}
	return int(C.mlx_array_size(a.h))
}

// NBytes is the number of bytes of the elements.
func (a *Array) NBytes() int {
	if !a.Valid() {
		return 0
	}
	return int(C.mlx_array_nbytes(a.h))
}

// DType is the element type.
func (a *Array) DType() DType {
	if !a.Valid() {
		return Float32
	}
	return DType(C.mlx_array_dtype(a.h))
}

func (a *Array) String() string {
	if !a.Valid() {
		return "array(freed)"
	}
	return fmt.Sprintf("array(%v, %v)", a.Shape(), a.DType())
}
