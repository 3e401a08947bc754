package mlxc

/*
#include <stdlib.h>
#include "glue.h"
*/
import "C"

import (
	"maps"
	"os"
	"slices"
	"unsafe"
)

// LoadSafetensors opens a safetensors file. The arrays are read from it when they are evaluated; the
// file must not change before that. MLX trusts the header, so check the file with the safetensors
// package first. The file is read by the CPU whatever the scope's device is.
func (s *Scope) LoadSafetensors(path string) map[string]*Array {
	const op = "load safetensors"
	if !s.ready(op) {
		return nil
	}
	return s.load(op, func(weights *C.mlx_map_string_to_array, metadata *C.mlx_map_string_to_string) C.int {
		return fromFile(path, func(file *C.char, cpu C.mlx_stream) C.int {
			return C.mlx_load_safetensors(weights, metadata, file, cpu)
		})
	})
}

// load makes arrays of the scope of what a function reads.
func (s *Scope) load(op string, read func(*C.mlx_map_string_to_array, *C.mlx_map_string_to_string) C.int) map[string]*Array {
	weights, metadata := C.mlx_map_string_to_array_new(), C.mlx_map_string_to_string_new()
	defer func() { // of the handles as read leaves them
		C.mlx_map_string_to_array_free(weights)
		C.mlx_map_string_to_string_free(metadata)
	}()
	if read(&weights, &metadata) != 0 {
		s.err = lastError(op)
		return nil
	}
	it := C.mlx_map_string_to_array_iterator_new(weights)
	defer C.mlx_map_string_to_array_iterator_free(it)
	out := map[string]*Array{}
	for {
		var key *C.char
		a := s.fresh()
		switch C.mlx_map_string_to_array_iterator_next(&key, &a.h, it) {
		case 0:
			live.Add(1)
			out[C.GoString(key)] = a
		case 2: // the end
			return out
		default:
			s.err = lastError(op)
			return nil
		}
	}
}

// fromFile calls load with what MLX wants for a file.
func fromFile(path string, load func(file *C.char, cpu C.mlx_stream) C.int) C.int {
	file := C.CString(path)
	defer C.free(unsafe.Pointer(file))
	cpu := C.mlx_default_cpu_stream_new()
	defer C.mlx_stream_free(cpu)
	return load(file, cpu)
}

// ReplaceSafetensors is SaveSafetensors to a file beside, which is then renamed: what is moved into place is always complete.
func (s *Scope) ReplaceSafetensors(path string, arrays map[string]*Array, metadata map[string]string) error {
	temp := path + ".part.safetensors" // MLX adds ".safetensors" to names without it
	defer os.Remove(temp)
	if err := s.SaveSafetensors(temp, arrays, metadata); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// SaveSafetensors writes arrays and string metadata to a file.
func (s *Scope) SaveSafetensors(path string, arrays map[string]*Array, metadata map[string]string) error {
	const op = "save safetensors"
	if !s.ready(op, slices.Collect(maps.Values(arrays))...) {
		return s.err
	}
	weights, meta := C.mlx_map_string_to_array_new(), C.mlx_map_string_to_string_new()
	defer C.mlx_map_string_to_array_free(weights)
	defer C.mlx_map_string_to_string_free(meta)
	for _, name := range slices.Sorted(maps.Keys(arrays)) {
		key := C.CString(name)
		rc := C.mlx_map_string_to_array_insert(weights, key, arrays[name].h)
		C.free(unsafe.Pointer(key))
		if err := check(op, rc); err != nil {
			return err
		}
	}
	for k, v := range metadata {
		key, value := C.CString(k), C.CString(v)
		rc := C.mlx_map_string_to_string_insert(meta, key, value)
		C.free(unsafe.Pointer(key))
		C.free(unsafe.Pointer(value))
		if err := check(op, rc); err != nil {
			return err
		}
	}
	file := C.CString(path)
	defer C.free(unsafe.Pointer(file))
	return check(op, C.mlx_save_safetensors(file, weights, meta))
}
