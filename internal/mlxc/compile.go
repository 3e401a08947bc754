package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"runtime/cgo"
	"runtime/debug"
	"unsafe"
)

// Function is a compiled graph: traced once for each set of input shapes and types (or once for all
// shapes when shapeless) and fused by MLX. It belongs to the thread that made it.
type Function struct {
	closure C.mlx_closure
	traced  *tracedFunc
}

type tracedFunc struct {
	fn     func(s *Scope, in []*Array) []*Array
	stream C.mlx_stream
	err    error       // why the last trace failed
	outer  *tracedFunc // the function in whose trace this one was made; MLX may run it again in the outer one's gradient
}

// fail notes why a trace failed, also for the functions around it: MLX tells these only that one did.
func (t *tracedFunc) fail(err error) {
	for ; t != nil; t = t.outer {
		t.err = err
	}
}

// Compile prepares fn; it is called while tracing and must be made of the scope's ops only. Arrays that
// it captures become constants and must outlive the Function. The caller closes the Function.
func (l *Lease) Compile(shapeless bool, fn func(s *Scope, in []*Array) []*Array) (*Function, error) {
	traced, plain := l.closure(fn)
	defer C.mlx_closure_free(plain) // the compiled closure holds its own reference
	f := &Function{traced: traced}
	if err := check("compile", C.mlx_compile(&f.closure, plain, C.bool(shapeless))); err != nil {
		return nil, err
	}
	return f, nil
}

// Call runs the function; the results belong to s.
func (f *Function) Call(s *Scope, in ...*Array) []*Array {
	if !s.ready("compiled function", in...) {
		return nil
	}
	args := vector(in)
	defer C.mlx_vector_array_free(args)
	out := C.mlx_vector_array_new()
	defer func() { C.mlx_vector_array_free(out) }()
	if rc := C.mlx_closure_apply(&out, f.closure, args); rc != 0 {
		s.err = f.traced.failure("compiled function")
		return nil
	}
	return s.unpack("compiled function", out)
}

// Close drops the graph and its constants.
func (f *Function) Close() error {
	if f == nil || f.closure.ctx == nil {
		return nil
	}
	rc := C.mlx_closure_free(f.closure)
	f.closure.ctx = nil
	return check("free compiled function", rc)
}

//export gomlxClosureCall
func gomlxClosureCall(out *C.mlx_vector_array, in C.mlx_vector_array, handle C.uintptr_t) (rc C.int) {
	t := cgo.Handle(handle).Value().(*tracedFunc)
	s := &Scope{stream: t.stream, traced: t}
	defer func() {
		if v := recover(); v != nil {
			t.fail(&PanicError{Value: v, Stack: debug.Stack()})
			rc = 1
		}
		if err := s.Close(); err != nil && rc == 0 {
			t.fail(err)
			rc = 1
		}
	}()
	results := t.fn(s, s.unpack("compile", in))
	if !s.ready("compile", results...) {
		t.fail(s.err)
		return 1
	}
	handles := make([]C.mlx_array, len(results))
	for i, a := range results {
		handles[i] = a.h
	}
	if err := check("compile", C.mlx_vector_array_set_data(out, unsafe.SliceData(handles), C.size_t(len(handles)))); err != nil {
		t.fail(err)
		return 1
	}
	return 0
}

//export gomlxClosureFree
func gomlxClosureFree(handle C.uintptr_t) { cgo.Handle(handle).Delete() }
