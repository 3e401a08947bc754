package mlxc

/*
#include <stdlib.h>
#include "glue.h"
*/
import "C"

import (
	"runtime"
	"unsafe"
)

// KernelSource is a CUDA kernel that MLX compiles when it is first used. Each input and output is a pointer
// of its name in the body; T is the type that Launch.Element names, and the constants are constexpr ints.
type KernelSource struct {
	Name            string
	Header, Body    string
	Inputs, Outputs []string
	Constants       []string
}

// Kernel is a custom kernel. The owner closes it.
type Kernel struct {
	KernelSource
	h     C.mlx_fast_cuda_kernel
	names []*C.char // of the constants
}

// Launch is one use of a kernel.
type Launch struct {
	Grid, Group [3]int // in threads
	Element     DType
	Constants   []int // one for each name
	Outputs     []Output
}

// Output is the shape and type of a result.
type Output struct {
	Shape []int
	DType DType
}

// CUDACapability is the major compute capability of the NVIDIA GPU that MLX computes on, which custom kernels need; 0
// on any other device.
func (l *Lease) CUDACapability() (int, error) {
	if l.Device().Name != "gpu" {
		return 0, nil
	}
	var has C.bool
	if err := checkAnywhere("cuda", func() C.int { return C.mlx_cuda_is_available(&has) }); err != nil || !bool(has) {
		return 0, err
	}
	major, _, err := l.deviceInfo("compute_capability_major")
	return int(major), err
}

// NewKernel prepares a kernel; errors of its source come with its first evaluation.
func NewKernel(source KernelSource) (*Kernel, error) {
	k := &Kernel{KernelSource: source}
	list := func(names []string) (C.mlx_vector_string, error) {
		v := C.mlx_vector_string_new()
		for _, name := range names {
			c := C.CString(name)
			rc := C.mlx_vector_string_append_value(v, c)
			C.free(unsafe.Pointer(c))
			if rc != 0 {
				return v, lastError("kernel")
			}
		}
		return v, nil
	}
	inputs, err := list(source.Inputs)
	defer C.mlx_vector_string_free(inputs)
	if err != nil {
		return nil, err
	}
	outputs, err := list(source.Outputs)
	defer C.mlx_vector_string_free(outputs)
	if err != nil {
		return nil, err
	}
	name, body, header := C.CString(source.Name), C.CString(source.Body), C.CString(source.Header)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(body))
	defer C.free(unsafe.Pointer(header))
	if k.h = C.mlx_fast_cuda_kernel_new(name, inputs, outputs, body, header, false, 0); k.h.ctx == nil {
		return nil, lastError("kernel " + source.Name)
	}
	for _, constant := range source.Constants {
		k.names = append(k.names, C.CString(constant))
	}
	return k, nil
}

// Close gives the kernel back. Arrays that it made stay valid.
func (k *Kernel) Close() {
	if k == nil || k.h.ctx == nil {
		return
	}
	C.mlx_fast_cuda_kernel_free(k.h)
	k.h.ctx = nil
	for _, name := range k.names {
		C.free(unsafe.Pointer(name))
	}
}

// Run applies a kernel. Inputs are not made contiguous: the body reads their strides.
func (s *Scope) Run(k *Kernel, launch Launch, inputs ...*Array) []*Array {
	none := make([]*Array, len(launch.Outputs))
	for i := range none {
		none[i] = s.none()
	}
	if !s.ready(k.Name, inputs...) {
		return none
	}
	var shapes, ranks, values []C.int
	var types []C.mlx_dtype
	for _, o := range launch.Outputs {
		shapes = append(shapes, ints(o.Shape)...)
		ranks = append(ranks, C.int(len(o.Shape)))
		types = append(types, C.mlx_dtype(o.DType))
	}
	values = ints(launch.Constants)
	handles := make([]C.mlx_array, len(inputs))
	for i, a := range inputs {
		handles[i] = a.h
	}
	var pins runtime.Pinner // the struct points to Go memory for as long as the call lasts
	defer pins.Unpin()
	c := C.gomlx_launch{
		outputs: C.int(len(launch.Outputs)), constants: C.int(len(values)), element: C.mlx_dtype(launch.Element),
		shapes: unsafe.SliceData(shapes), ranks: unsafe.SliceData(ranks), types: unsafe.SliceData(types),
		values: unsafe.SliceData(values), names: unsafe.SliceData(k.names),
	}
	for i := range 3 {
		c.grid[i], c.group[i] = C.int(launch.Grid[i]), C.int(launch.Group[i])
	}
	pins.Pin(c.shapes)
	pins.Pin(c.ranks)
	pins.Pin(c.types)
	if len(values) > 0 {
		pins.Pin(c.values)
		pins.Pin(c.names)
	}
	out := C.mlx_vector_array_new()
	defer func() { C.mlx_vector_array_free(out) }()
	if C.gomlx_cuda_kernel_apply(&out, k.h, unsafe.SliceData(handles), C.int(len(handles)), &c, s.stream) != 0 {
		s.err = lastError(k.Name)
		return none
	}
	return s.unpack(k.Name, out)
}
