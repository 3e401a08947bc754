package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime/cgo"
	"unsafe"
)

// GradFunction computes a function's values with the gradients of the first of them. It belongs to the thread that made it.
type GradFunction struct {
	closure C.mlx_closure_value_and_grad
	traced  *tracedFunc
}

// ValueAndGrad prepares the gradients of fn's first value, a scalar, with respect to the inputs that are named by their
// numbers. fn is called at every Call and must be made of the scope's ops only. The caller closes the result.
func (l *Lease) ValueAndGrad(fn func(s *Scope, in []*Array) []*Array, inputs ...int) (*GradFunction, error) {
	if len(inputs) == 0 {
		return nil, errors.New("mlx: value and grad: no inputs named")
	}
	traced, plain := l.closure(fn)
	defer C.mlx_closure_free(plain)
	g := &GradFunction{traced: traced}
	numbers := ints(inputs)
	return g, check("value and grad", C.mlx_value_and_grad(&g.closure, plain, unsafe.SliceData(numbers), C.size_t(len(numbers))))
}

// closure makes a Go function callable for MLX; the caller frees the closure.
func (l *Lease) closure(fn func(s *Scope, in []*Array) []*Array) (*tracedFunc, C.mlx_closure) {
	t := &tracedFunc{fn: fn, stream: l.thread.stream}
	return t, C.gomlx_closure_new(C.uintptr_t(cgo.NewHandle(t)))
}

// Call runs the function. Values and gradients, in the order of the inputs, belong to s.
func (g *GradFunction) Call(s *Scope, in ...*Array) (values, gradients []*Array) {
	const op = "value and grad"
	if !s.ready(op, in...) {
		return nil, nil
	}
	args := vector(in)
	defer C.mlx_vector_array_free(args)
	out, grads := C.mlx_vector_array_new(), C.mlx_vector_array_new()
	defer func() { C.mlx_vector_array_free(out) }()
	defer func() { C.mlx_vector_array_free(grads) }()
	if rc := C.mlx_closure_value_and_grad_apply(&out, &grads, g.closure, args); rc != 0 {
		s.err = g.traced.failure(op)
		return nil, nil
	}
	return s.unpack(op, out), s.unpack(op, grads)
}

// Close drops the function.
func (g *GradFunction) Close() error {
	if g == nil || g.closure.ctx == nil {
		return nil
	}
	rc := C.mlx_closure_value_and_grad_free(g.closure)
	g.closure.ctx = nil
	return check("free value and grad", rc)
}

// failure is why a call of the function failed: what the Go function said, or MLX.
func (t *tracedFunc) failure(op string) error {
	err := lastError(op)
	if t.err != nil {
		err, t.err = fmt.Errorf("mlx: %s: %w", op, t.err), nil
		C.gomlx_clear_error()
	}
	return err
}

// VJP is a function's values at primals with the products of cotangents, one for each value, and its Jacobian: one
// for each primal.
func (l *Lease) VJP(s *Scope, fn func(s *Scope, in []*Array) []*Array, primals, cotangents []*Array) (values, products []*Array) {
	return l.jacobian(s, "vjp", fn, primals, cotangents, func(out, products *C.mlx_vector_array, f C.mlx_closure, a, b C.mlx_vector_array) C.int {
		return C.mlx_vjp(out, products, f, a, b)
	})
}

// JVP is a function's values at primals with the products of its Jacobian and tangents, one for each primal: one for
// each value.
func (l *Lease) JVP(s *Scope, fn func(s *Scope, in []*Array) []*Array, primals, tangents []*Array) (values, products []*Array) {
	return l.jacobian(s, "jvp", fn, primals, tangents, func(out, products *C.mlx_vector_array, f C.mlx_closure, a, b C.mlx_vector_array) C.int {
		return C.mlx_jvp(out, products, f, a, b)
	})
}

func (l *Lease) jacobian(s *Scope, op string, fn func(s *Scope, in []*Array) []*Array, at, along []*Array,
	apply func(out, products *C.mlx_vector_array, f C.mlx_closure, at, along C.mlx_vector_array) C.int,
) (values, products []*Array) {
	if !s.ready(op, at...) || !s.ready(op, along...) {
		return nil, nil
	}
	traced, f := l.closure(fn)
	defer C.mlx_closure_free(f)
	a, b, out, results := vector(at), vector(along), C.mlx_vector_array_new(), C.mlx_vector_array_new()
	defer C.mlx_vector_array_free(a)
	defer C.mlx_vector_array_free(b)
	defer func() { C.mlx_vector_array_free(out) }()
	defer func() { C.mlx_vector_array_free(results) }()
	if apply(&out, &results, f, a, b) != 0 {
		s.err = traced.failure(op)
		return nil, nil
	}
	return s.unpack(op, out), s.unpack(op, results)
}

// Checkpointed runs a function whose gradients compute its inner results anew instead of keeping them.
func (s *Scope) Checkpointed(fn func(s *Scope, in []*Array) []*Array, in ...*Array) []*Array {
	const op = "checkpoint"
	if !s.ready(op, in...) {
		return nil
	}
	t := &tracedFunc{fn: fn, stream: s.stream, outer: s.traced}
	plain := C.gomlx_closure_new(C.uintptr_t(cgo.NewHandle(t)))
	defer C.mlx_closure_free(plain)
	var checkpoint C.mlx_closure
	if s.err = check(op, C.mlx_checkpoint(&checkpoint, plain)); s.err != nil {
		return nil
	}
	defer C.mlx_closure_free(checkpoint)
	args, out := vector(in), C.mlx_vector_array_new()
	defer C.mlx_vector_array_free(args)
	defer func() { C.mlx_vector_array_free(out) }()
	if C.mlx_closure_apply(&out, checkpoint, args) != 0 {
		s.err = t.failure(op)
		return nil
	}
	return s.unpack(op, out)
}
