package mlxc

/*
#include <stdlib.h>
#include "glue.h"
#include "gomlx_kernels.h"
*/
import "C"

import "unsafe"

// WeightFile is a file of weights for a model on the CPU: its arrays are made first, and then the parts that are needed are read
// by the kernels' threads, directly into the arrays' memory. Its memory, in large pages where the system has them, lives as long as arrays of
// it do. The owner closes it.
type WeightFile struct{ h *C.gomlx_file }

// OpenWeightFile opens a file whose tensors begin at start.
func OpenWeightFile(path string, start int64) (*WeightFile, error) {
	c := C.CString(path)
	defer C.free(unsafe.Pointer(c))
	f := &WeightFile{}
	return f, checkAnywhere("open weights", func() C.int { return C.gomlx_file_open(&f.h, c, C.size_t(start)) })
}

// NewWeightRoom makes room for weights that the caller computes: arrays of it are made, and then their bytes are written to where Bytes says.
func NewWeightRoom(size int64) (*WeightFile, error) {
	f := &WeightFile{}
	return f, checkAnywhere("room for weights", func() C.int { return C.gomlx_file_room(&f.h, C.size_t(size)) })
}

// Bytes is where the bytes from offset on stay, to be written once. They are there as long as arrays of them are.
func (f *WeightFile) Bytes(offset, length int64) ([]byte, error) {
	var data unsafe.Pointer
	err := checkAnywhere("room for weights", func() C.int {
		return C.gomlx_file_bytes_at(&data, f.h, C.size_t(offset), C.size_t(length))
	})
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(data), length), nil
}

// Close closes the file. Arrays of it stay valid.
func (f *WeightFile) Close() {
	if f != nil && f.h != nil {
		C.gomlx_file_close(f.h)
		f.h = nil
	}
}

// Array is the bytes from offset on, which hold nothing until they are read.
func (f *WeightFile) Array(s *Scope, offset int64, dtype DType, shape ...int) *Array {
	const op = "weights"
	if !s.ready(op) {
		return s.none()
	}
	dims := ints(shape)
	p, n := intsPtr(dims)
	r := s.fresh()
	return s.done(op, r, C.gomlx_file_array(&r.h, f.h, C.size_t(offset), p, C.int(n), C.mlx_dtype(dtype)))
}

// Range is a part of a file.
type Range struct{ Offset, Length int64 }

// Read reads parts of the file.
func (f *WeightFile) Read(parts []Range) error {
	if len(parts) == 0 {
		return nil
	}
	offsets, lengths := make([]C.size_t, len(parts)), make([]C.size_t, len(parts))
	for i, p := range parts {
		offsets[i], lengths[i] = C.size_t(p.Offset), C.size_t(p.Length)
	}
	return checkAnywhere("read weights", func() C.int {
		return C.gomlx_file_read(f.h, unsafe.SliceData(offsets), unsafe.SliceData(lengths), C.size_t(len(parts)))
	})
}
