package mlxc

/*
#include <stdlib.h>
#include "glue.h"
#include "gomlx_cuda.h"
*/
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// CUDADevice is what there is to know of an NVIDIA GPU before a kernel is compiled for it.
type CUDADevice struct {
	Major, Minor     int // compute capability
	Multiprocessors  int
	SharedBytes      int // that a block can have
	Driver, Compiler int // CUDA versions of the driver and of the run-time compiler, 1000 major + 10 minor
}

// CUDADevice describes the lease's device; it is an error if that is no NVIDIA GPU.
func (l *Lease) CUDADevice() (CUDADevice, error) {
	var d C.gomlx_cuda_device
	index := C.int(l.thread.device.Index)
	if err := checkAnywhere("cuda device", func() C.int { return C.gomlx_cuda_describe(&d, index) }); err != nil {
		return CUDADevice{}, err
	}
	return CUDADevice{
		Major: int(d.major), Minor: int(d.minor), Multiprocessors: int(d.multiprocessors), SharedBytes: int(d.shared_bytes),
		Driver: int(d.driver), Compiler: int(d.compiler),
	}, nil
}

// CompileCUDA compiles a source that includes nothing into machine code for a device.
func CompileCUDA(source string, device CUDADevice) ([]byte, error) {
	text := C.CString(source)
	defer C.free(unsafe.Pointer(text))
	var code *C.char
	var size C.size_t
	if err := checkAnywhere("compile", func() C.int {
		return C.gomlx_cuda_compile(&code, &size, text, C.int(device.Major), C.int(device.Minor))
	}); err != nil {
		return nil, err
	}
	defer C.gomlx_cuda_free(code)
	return C.GoBytes(unsafe.Pointer(code), C.int(size)), nil
}

// Program is a compiled kernel with the arrays that every launch of it gets. The owner closes it.
type Program struct {
	kernel string
	p      *C.gomlx_cuda_program
}

// ProgramLaunch is one use of a program.
type ProgramLaunch struct {
	Grid, Group [3]int // in threads
	SharedBytes int
	Outputs     []Output
	Numbers     []int32  // parameters after the outputs
	Layouts     []Layout // of the first inputs: the parameters after the numbers; inputs without one must be in row-major order
}

// Layout is what a kernel wants to know of an input: its shape, then its strides, a parameter for each dimension.
type Layout struct{ Shape, Strides bool }

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

// HasCUDA reports whether MLX computes on an NVIDIA GPU.
var HasCUDA = sync.OnceValue(func() bool {
	device, err := defaultDevice()
	if err != nil || device.Name != "gpu" {
		return false
	}
	var has C.bool
	return checkAnywhere("cuda", func() C.int { return C.mlx_cuda_is_available(&has) }) == nil && bool(has)
})

// NewProgram takes code of CompileCUDA with an extern "C" kernel of a name. It holds the fixed arrays until it is closed.
func NewProgram(kernel string, code []byte, fixed []*Array) (*Program, error) {
	name := C.CString(kernel)
	defer C.free(unsafe.Pointer(name))
	handles := arrayHandles(fixed)
	p := &Program{kernel: kernel}
	err := checkAnywhere("program", func() C.int {
		return C.gomlx_cuda_program_new(&p.p, name, (*C.char)(unsafe.Pointer(unsafe.SliceData(code))), C.size_t(len(code)),
			unsafe.SliceData(handles), C.int(len(handles)))
	})
	return p, err
}

func arrayHandles(arrays []*Array) []C.mlx_array {
	handles := make([]C.mlx_array, len(arrays))
	for i, a := range arrays {
		handles[i] = a.h
	}
	return handles
}

// Close gives the program and its hold on the arrays back.
func (p *Program) Close() {
	if p != nil && p.p != nil {
		C.gomlx_cuda_program_free(p.p)
		p.p = nil
	}
}

// RunProgram launches a program. Its parameters are first, the fixed arrays, last, the outputs, the numbers and the layouts.
// Inputs that a program writes to must not share memory with other arrays: MLX does not notice the writes.
func (s *Scope) RunProgram(p *Program, launch ProgramLaunch, first, last []*Array) []*Array {
	out := make([]*Array, len(launch.Outputs))
	for i := range out {
		out[i] = s.none()
	}
	if !s.ready(p.kernel, first...) || !s.ready(p.kernel, last...) {
		return out
	}
	var shapes, ranks []C.int
	var types []C.mlx_dtype
	for _, o := range launch.Outputs {
		shapes = append(shapes, ints(o.Shape)...)
		ranks = append(ranks, C.int(len(o.Shape)))
		types = append(types, C.mlx_dtype(o.DType))
	}
	numbers := make([]C.int, len(launch.Numbers))
	for i, n := range launch.Numbers {
		numbers[i] = C.int(n)
	}
	layouts := make([]C.int, len(launch.Layouts))
	for i, l := range launch.Layouts {
		if l.Shape {
			layouts[i] |= C.GOMLX_SHAPE
		}
		if l.Strides {
			layouts[i] |= C.GOMLX_STRIDES
		}
	}
	var pins runtime.Pinner // the struct points to Go memory for as long as the call lasts
	defer pins.Unpin()
	c := C.gomlx_cuda_launch{
		shared_bytes: C.int(launch.SharedBytes),
		outputs:      C.int(len(out)), shapes: unsafe.SliceData(shapes), ranks: unsafe.SliceData(ranks), types: unsafe.SliceData(types),
		numbers: unsafe.SliceData(numbers), number_count: C.int(len(numbers)),
		layouts: unsafe.SliceData(layouts), layout_count: C.int(len(layouts)),
	}
	for i := range 3 {
		c.grid[i], c.group[i] = C.int(launch.Grid[i]), C.int(launch.Group[i])
	}
	pins.Pin(c.shapes)
	pins.Pin(c.ranks)
	pins.Pin(c.types)
	if len(numbers) > 0 {
		pins.Pin(c.numbers)
	}
	if len(layouts) > 0 {
		pins.Pin(c.layouts)
	}
	before, after, made := arrayHandles(first), arrayHandles(last), make([]C.mlx_array, len(out))
	if C.gomlx_cuda_program_run(unsafe.SliceData(made), p.p, unsafe.SliceData(before), C.int(len(before)),
		unsafe.SliceData(after), C.int(len(after)), &c, s.stream) != 0 {
		s.err = lastError(p.kernel)
		return out
	}
	for i := range out {
		a := s.fresh()
		a.h = made[i]
		out[i] = s.done(p.kernel, a, 0)
	}
	return out
}
