package mlxc

/*
#include <stdlib.h>
#include "glue.h"
*/
import "C"

import (
	"fmt"
	"io"
	"runtime/cgo"
	"sync"
	"unsafe"
)

// VirtualFile is a safetensors file that exists only as a reader: MLX asks it for bytes when arrays are evaluated, and
// they are written into the array's own memory. The reader is called by several threads of MLX at once.
type VirtualFile struct {
	name string
	from io.ReaderAt
	size int64

	at  int64 // used by the thread that reads the header only
	mu  sync.Mutex
	err error // guarded by mu
}

// NewVirtualFile names a reader of size bytes.
func NewVirtualFile(name string, from io.ReaderAt, size int64) *VirtualFile {
	return &VirtualFile{name: name, from: from, size: size}
}

// Err is the first error of the reader. MLX does not report errors of reading, so ask after evaluating.
func (f *VirtualFile) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *VirtualFile) read(data unsafe.Pointer, n, offset int64) C.size_t {
	into := unsafe.Slice((*byte)(data), n)
	got, err := f.from.ReadAt(into, offset)
	if err != nil && !(err == io.EOF && int64(got) == n) {
		f.mu.Lock()
		if f.err == nil {
			f.err = fmt.Errorf("read %s: %w", f.name, err)
		}
		f.mu.Unlock()
		// An exception in one of MLX's threads would be lost; zeros and Err are not.
		clear(into[got:])
	}
	return C.size_t(n)
}

// LoadVirtual is LoadSafetensors for a virtual file.
func (s *Scope) LoadVirtual(f *VirtualFile) map[string]*Array {
	const op = "load safetensors"
	if !s.ready(op) {
		return nil
	}
	name := C.CString(f.name)
	defer C.free(unsafe.Pointer(name))
	reader := C.gomlx_reader_new(C.uintptr_t(cgo.NewHandle(f)), name)
	defer C.mlx_io_reader_free(reader)
	return s.load(op, func(weights *C.mlx_map_string_to_array, metadata *C.mlx_map_string_to_string) C.int {
		cpu := C.mlx_default_cpu_stream_new()
		defer C.mlx_stream_free(cpu)
		return C.mlx_load_safetensors_reader(weights, metadata, reader, cpu)
	})
}

//export gomlxReaderRead
func gomlxReaderRead(handle C.uintptr_t, data unsafe.Pointer, n C.size_t) C.size_t {
	f := cgo.Handle(handle).Value().(*VirtualFile)
	read := f.read(data, int64(n), f.at)
	f.at += int64(read)
	return read
}

//export gomlxReaderReadAt
func gomlxReaderReadAt(handle C.uintptr_t, data unsafe.Pointer, n, offset C.size_t) C.size_t {
	return cgo.Handle(handle).Value().(*VirtualFile).read(data, int64(n), int64(offset))
}

//export gomlxReaderSeek
func gomlxReaderSeek(handle C.uintptr_t, offset C.int64_t, whence C.int) C.int {
	f := cgo.Handle(handle).Value().(*VirtualFile)
	at := int64(offset)
	switch int(whence) {
	case io.SeekCurrent:
		at += f.at
	case io.SeekEnd:
		at += f.size
	}
	if at < 0 {
		return -1
	}
	f.at = at
	return 0
}

//export gomlxReaderTell
func gomlxReaderTell(handle C.uintptr_t) C.size_t {
	return C.size_t(cgo.Handle(handle).Value().(*VirtualFile).at)
}

//export gomlxReaderFree
func gomlxReaderFree(handle C.uintptr_t) { cgo.Handle(handle).Delete() }
