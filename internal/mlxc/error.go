package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
)

func init() {
	C.gomlx_install_error_handler()
	roomForCUDA()
}

// Error is a failure that MLX reported.
type Error struct {
	Op      string // the op or call that failed, e.g. "matmul"
	Message string // MLX's own words
}

func (e *Error) Error() string { return fmt.Sprintf("mlx: %s: %s", e.Op, e.Message) }

// ErrFreed is wrapped by the error of an op whose operand was freed or never made.
var ErrFreed = errors.New("array was freed or never made")

// check turns the return code of a call made on this thread into an error. Only the owner thread may
// use it: the message slot belongs to the OS thread.
func check(op string, rc C.int) error {
	if rc == 0 {
		return nil
	}
	return lastError(op)
}

func lastError(op string) error {
	msg := C.GoString(C.gomlx_error())
	C.gomlx_clear_error()
	// mlx-c appends the place in its own source, which says nothing to a caller.
	if i := strings.LastIndex(msg, " at /"); i > 0 {
		msg = msg[:i]
	}
	if msg == "" {
		msg = "failed without a message"
	}
	return &Error{Op: op, Message: msg}
}

// checkAnywhere is check for calls that any goroutine may make.
func checkAnywhere(op string, call func() C.int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return check(op, call())
}
