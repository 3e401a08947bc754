package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Checks for tests and for the search of leaks. They cost one load of a flag per op when off.

// checks is whether any of them is on.
var checks atomic.Bool

var ledger struct {
	sync.Mutex
	origins map[*Array]string // the op that made each live array; nil when leaks are not traced
	failIn  int               // the op, counted from now, that fails; 0 for none
	failed  bool
}

// TraceLeaks starts or stops noting which op made each array. LiveByOp tells of arrays made since.
func TraceLeaks(on bool) {
	ledger.Lock()
	defer ledger.Unlock()
	ledger.origins = nil
	if on {
		ledger.origins = map[*Array]string{}
	}
	checks.Store(on || ledger.failIn > 0)
}

// LiveByOp is how many arrays made since TraceLeaks(true) are not freed, by the op that made them.
func LiveByOp() map[string]int {
	ledger.Lock()
	defer ledger.Unlock()
	out := map[string]int{}
	for _, op := range ledger.origins {
		out[op]++
	}
	return out
}

// FailAt makes the n-th op from now, evaluations included, fail in MLX as an op on wrong shapes does; 0
// stops that. It reports whether the op of the call before was reached.
func FailAt(n int) (reached bool) {
	ledger.Lock()
	defer ledger.Unlock()
	reached, ledger.failed = ledger.failed, false
	ledger.failIn = n
	checks.Store(n > 0 || ledger.origins != nil)
	return reached
}

// injected counts an op and reports whether it is the one to fail.
func injected() bool {
	ledger.Lock()
	defer ledger.Unlock()
	if ledger.failIn == 0 {
		return false
	}
	ledger.failIn--
	ledger.failed = ledger.failIn == 0
	return ledger.failed
}

// checked looks at an op that went well: it notes its result or makes it fail after all.
func (s *Scope) checked(op string, a *Array) {
	if injected() {
		C.mlx_array_free(a.h)
		a.h.ctx = nil
		live.Add(-1)
		s.err = failForReal(op)
		return
	}
	ledger.Lock()
	defer ledger.Unlock()
	if ledger.origins != nil {
		ledger.origins[a] = op
	}
}

// failForReal lets MLX throw: the error takes the way that every error takes.
func failForReal(op string) error {
	var a, r C.mlx_array
	a = C.mlx_array_new_float(1)
	defer C.mlx_array_free(a)
	r = C.mlx_array_new()
	defer func() { C.mlx_array_free(r) }()
	shape := C.int(7)
	stream := C.mlx_default_cpu_stream_new()
	defer C.mlx_stream_free(stream)
	if C.mlx_reshape(&r, a, &shape, 1, stream) == 0 {
		panic("metal: a reshape of one element to seven went well")
	}
	return lastError(op)
}

// forget removes a freed array from the list of live arrays.
func forget(a *Array) {
	if !checks.Load() {
		return
	}
	ledger.Lock()
	defer ledger.Unlock()
	delete(ledger.origins, a)
}

// Memory evaluates an array and returns the bytes from its first element to its last as they lie in memory, and its strides in elements: what a
// kernel sees that is handed its address. In row-major order these are all elements, one after the other. MLX does not notice writes to
// this memory: all arrays that share it see them.
func (a *Array) Memory() (data []byte, strides []int, err error) {
	if err := a.scope.Eval(a); err != nil {
		return nil, nil, err
	}
	if a.Size() == 0 {
		return nil, nil, nil
	}
	last := 0
	if a.NDim() > 0 {
		for i, stride := range unsafe.Slice(C.mlx_array_strides(a.h), a.NDim()) {
			strides = append(strides, int(stride))
			last += (a.Dim(i) - 1) * int(stride)
		}
	}
	at := unsafe.Pointer(C.mlx_array_data_uint8(a.h))
	if at == nil {
		return nil, nil, lastError("memory")
	}
	return unsafe.Slice((*byte)(at), (last+1)*(a.NBytes()/a.Size())), strides, nil
}
