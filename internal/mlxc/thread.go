package mlxc

/*
#include "glue.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Thread is a goroutine locked to an OS thread, with an MLX stream of its own on the default device.
// All arrays made on it stay on it.
type Thread struct {
	jobs   chan *job
	dead   chan struct{} // closed if a job ended the goroutine with runtime.Goexit
	stream C.mlx_stream
	device Device
	queued atomic.Int32 // callers of Do that wait for their turn
}

type job struct {
	run  func()
	err  error
	done chan struct{}
}

// ErrReleased is returned by Do on a thread that was given back.
var ErrReleased = errors.New("mlx: thread was released")

var errGoexit = errors.New("mlx: a job ended its owner thread with runtime.Goexit")

// PanicError is a panic on the owner thread, carried to the caller of Do.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("mlx: panic: %v\n%s", e.Value, e.Stack) }

// MLX never ends a stream or the OS thread behind it, so threads are kept for the next model instead
// of being made anew: their number is the largest number of models that were open at once.
var idle struct {
	sync.Mutex
	threads []*Thread
}

// started counts the owner threads; none ends before the process does.
var started atomic.Int64

// Threads is how many owner threads there are, leased or waiting for a lease.
func Threads() int64 { return started.Load() }

// Acquire returns an owner thread, to be given back with Release.
func Acquire() (*Lease, error) {
	idle.Lock()
	if n := len(idle.threads); n > 0 {
		t := idle.threads[n-1]
		idle.threads = idle.threads[:n-1]
		idle.Unlock()
		return newLease(t), nil
	}
	idle.Unlock()
	t := &Thread{jobs: make(chan *job), dead: make(chan struct{})}
	opened := make(chan error)
	go t.loop(opened)
	if err := <-opened; err != nil {
		return nil, err
	}
	started.Add(1)
	return newLease(t), nil
}

func (t *Thread) loop(opened chan<- error) {
	runtime.LockOSThread() // never unlocked: the stream and the error slot are this thread's
	if err := t.open(); err != nil {
		opened <- err
		return
	}
	opened <- nil
	defer close(t.dead)
	for j := range t.jobs {
		t.run(j)
	}
}

func (t *Thread) run(j *job) {
	j.err = errGoexit // what stays if run neither returns nor panics
	defer close(j.done)
	j.err = protect(j.run)
}

func (t *Thread) open() error {
	device, err := defaultDevice()
	if err != nil {
		return err
	}
	t.device = device
	dev := C.mlx_device_new_type(C.mlx_device_type(device.kind), C.int(device.Index))
	defer C.mlx_device_free(dev)
	t.stream = C.mlx_stream_new_device(dev)
	if t.stream.ctx == nil {
		return lastError("new stream")
	}
	// Calls that take no stream (random keys, host copies) use the thread's default one.
	return check("set default stream", C.mlx_set_default_stream(t.stream))
}

func protect(run func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	run()
	return nil
}

// Lease is the exclusive use of a Thread.
type Lease struct {
	thread   *Thread
	mu       sync.Mutex
	closing  bool           // set by Release, guarded by mu: from then on Do takes no job
	jobs     sync.WaitGroup // calls of Do under way; counted up under mu while closing is not set
	released chan struct{}  // closed when the thread is given back
}

func newLease(t *Thread) *Lease { return &Lease{thread: t, released: make(chan struct{})} }

// Device is the device that the thread's stream runs on.
func (l *Lease) Device() Device { return l.thread.device }

// Do runs fn on the owner thread and waits for it. ctx is looked at only until fn starts: a job that
// runs is finished, so that no array is left half-made. A panic in fn comes back as *PanicError.
// Calling Do from fn deadlocks.
func (l *Lease) Do(ctx context.Context, fn func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !l.begin() {
		return ErrReleased
	}
	defer l.jobs.Done()
	j := &job{run: fn, done: make(chan struct{})}
	l.thread.queued.Add(1)
	select {
	case l.thread.jobs <- j:
		l.thread.queued.Add(-1)
	case <-l.thread.dead:
		l.thread.queued.Add(-1)
		return errGoexit
	case <-ctx.Done():
		l.thread.queued.Add(-1)
		return ctx.Err()
	}
	<-j.done
	return j.err
}

// begin counts a job, unless the lease is being released. It never waits.
func (l *Lease) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.jobs.Add(1)
	return true
}

// Awaited reports whether a caller of Do or Release waits for the job under way to end. A long job looks
// at it between its steps.
func (l *Lease) Awaited() bool { return l.thread.queued.Load() > 0 }

// Release runs cleanup as the last job and gives the thread back. It waits for jobs under way and for those that were
// already queued; calls of Do from now on return ErrReleased at once. A second Release waits for the first and does nothing.
func (l *Lease) Release(cleanup func()) error {
	l.mu.Lock()
	again := l.closing
	l.closing = true
	l.mu.Unlock()
	if again {
		<-l.released
		return nil
	}
	defer close(l.released)
	l.thread.queued.Add(1) // a long job under way should notice
	l.jobs.Wait()
	l.thread.queued.Add(-1)
	j := &job{run: cleanup, done: make(chan struct{})}
	select {
	case l.thread.jobs <- j:
	case <-l.thread.dead:
		return errGoexit
	}
	<-j.done
	idle.Lock()
	idle.threads = append(idle.threads, l.thread)
	idle.Unlock()
	return j.err
}

// NewScope opens a scope; call it, and everything on it, inside Do.
func (l *Lease) NewScope() *Scope { return &Scope{stream: l.thread.stream} }
