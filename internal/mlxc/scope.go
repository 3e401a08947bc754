package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// slabSize is how many Array headers are allocated at once: one Go allocation for many ops.
const slabSize = 64

// Scope owns the arrays that its methods make and frees them in Close. It latches the first error.
// A scope belongs to the thread of the Lease that opened it.
type Scope struct {
	stream C.mlx_stream
	slab   []Array
	arrays []*Array
	err    error
	traced *tracedFunc // in whose trace the scope is; nil outside
}

// Child opens an empty scope on the same stream.
func (s *Scope) Child() *Scope { return &Scope{stream: s.stream, traced: s.traced} }

// Err is the first error of an op in this scope, or nil.
func (s *Scope) Err() error { return s.err }

// Fail latches err unless an earlier error is latched already.
func (s *Scope) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Len is the number of arrays that Close would free.
func (s *Scope) Len() int {
	n := 0
	for _, a := range s.arrays {
		if a != nil && a.h.ctx != nil {
			n++
		}
	}
	return n
}

// Close frees every array that the scope still owns. It may be called again.
func (s *Scope) Close() error {
	handles := make([]C.mlx_array, 0, len(s.arrays))
	for _, a := range s.arrays {
		if a != nil && a.h.ctx != nil {
			handles = append(handles, a.h)
			a.h.ctx = nil
			forget(a)
		}
	}
	s.arrays, s.slab = nil, nil
	if len(handles) == 0 {
		return nil
	}
	failed := C.gomlx_free_arrays(unsafe.SliceData(handles), C.size_t(len(handles)))
	live.Add(int64(int(failed) - len(handles)))
	return check("free", failed)
}

// Keep takes a out of its scope: the caller owns it and frees it with Array.Free.
func (s *Scope) Keep(a *Array) *Array {
	if a.kept || a.h.ctx == nil {
		return a
	}
	a.scope.arrays[a.index] = nil
	a.kept = true
	return a
}

// Adopt makes the scope the owner of a kept array, or of one that another scope owns.
func (s *Scope) Adopt(a *Array) *Array {
	if a.h.ctx == nil {
		return a
	}
	if !a.kept {
		a.scope.arrays[a.index] = nil
	}
	s.own(a)
	return a
}

func (s *Scope) own(a *Array) {
	a.scope, a.index, a.kept = s, len(s.arrays), false
	s.arrays = append(s.arrays, a)
}

// fresh returns an empty header that the scope owns; the op fills in the handle.
func (s *Scope) fresh() *Array {
	if len(s.slab) == 0 {
		s.slab = make([]Array, slabSize)
	}
	a := &s.slab[0]
	s.slab = s.slab[1:]
	s.own(a)
	return a
}

// ready reports whether an op may run: nothing failed so far and every operand is live.
func (s *Scope) ready(op string, operands ...*Array) bool {
	if s.err != nil {
		return false
	}
	for i, a := range operands {
		if a == nil || a.h.ctx == nil {
			s.err = fmt.Errorf("mlx: %s: operand %d: %w", op, i, ErrFreed)
			return false
		}
	}
	return true
}

// done finishes an op: it counts the new handle or latches the error.
func (s *Scope) done(op string, a *Array, rc C.int) *Array {
	if rc != 0 {
		s.err = lastError(op)
		return a
	}
	live.Add(1)
	if checks.Load() {
		s.checked(op, a)
	}
	return a
}

// none is the result of an op that did not run. Its handle is empty, so using it latches an error.
func (s *Scope) none() *Array { return &Array{scope: s} }

// ints copies to C's int type; shapes are short.
func ints(v []int) []C.int {
	out := make([]C.int, len(v))
	for i, x := range v {
		out[i] = C.int(x)
	}
	return out
}

func intsPtr(v []C.int) (*C.int, C.size_t) { return unsafe.SliceData(v), C.size_t(len(v)) }

// vector makes an mlx_vector_array of live operands; the caller frees it.
func vector(arrays []*Array) C.mlx_vector_array {
	handles := make([]C.mlx_array, len(arrays))
	for i, a := range arrays {
		handles[i] = a.h
	}
	return C.mlx_vector_array_new_data(unsafe.SliceData(handles), C.size_t(len(handles)))
}

// Eval computes the arrays and waits for them.
func (s *Scope) Eval(arrays ...*Array) error { return s.eval("eval", arrays, true) }

// AsyncEval starts computing the arrays; reading one of them waits.
func (s *Scope) AsyncEval(arrays ...*Array) error { return s.eval("async_eval", arrays, false) }

func (s *Scope) eval(op string, arrays []*Array, wait bool) error {
	if !s.ready(op, arrays...) {
		return s.err
	}
	if checks.Load() && injected() {
		s.err = failForReal(op)
		return s.err
	}
	v := vector(arrays)
	defer C.mlx_vector_array_free(v)
	var rc C.int
	if wait {
		rc = C.mlx_eval(v)
	} else {
		rc = C.mlx_async_eval(v)
	}
	if rc != 0 {
		s.err = lastError(op)
	}
	return s.err
}

// Synchronize waits for all work on the scope's stream.
func (s *Scope) Synchronize() error { return check("synchronize", C.mlx_synchronize(s.stream)) }
