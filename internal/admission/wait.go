package admission

import (
	"context"
	"fmt"
	"strings"
)

// Reason is why a request or a worker waits.
type Reason string

// Reasons to wait.
const (
	WaitLoad   Reason = "load"   // the model is being loaded
	WaitClose  Reason = "close"  // the model is being closed, and is loaded again afterwards
	WaitDrain  Reason = "drain"  // the model has to make room for others first
	WaitTurn   Reason = "turn"   // others asked for memory before
	WaitMemory Reason = "memory" // others hold the memory and are about to give it back
	WaitPinned Reason = "pinned" // models that may not be closed hold the memory
)

// Wait is what a request or a worker waits for.
type Wait struct {
	Model  string
	Reason Reason
	// Models have to do something first: they asked before, have requests to end, are being closed, or are pinned.
	Models []string
	Needed int64 // bytes; of reasons turn, memory and pinned, as the other two
	Free   int64
	Budget int64
}

// String says it in a sentence without a full stop.
func (w Wait) String() string {
	names := strings.Join(w.Models, ", ")
	switch w.Reason {
	case "":
		return ""
	case WaitLoad:
		return fmt.Sprintf("model %s is being loaded", w.Model)
	case WaitClose:
		return fmt.Sprintf("model %s is being closed and will be loaded again", w.Model)
	case WaitDrain:
		return fmt.Sprintf("model %s has to make room for %s first", w.Model, names)
	}
	text := fmt.Sprintf("model %s waits for %s of memory, %s of %s are free", w.Model, mib(w.Needed), mib(w.Free), mib(w.Budget))
	switch {
	case names == "":
		return text
	case w.Reason == WaitTurn:
		return text + "; before it: " + names
	case w.Reason == WaitPinned:
		return text + "; held by models that are not closed for others: " + names
	}
	return text + "; held by: " + names
}

func mib(bytes int64) string {
	const unit = 1 << 20
	if bytes > -unit && bytes < unit {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%d MiB", bytes/unit)
}

// waiter is a request or a claim that waits. Its fields are guarded by the Room's lock; done is closed when the outcome is known,
// changed when wait is another one than before.
type waiter struct {
	done    chan struct{}
	err     error
	wait    Wait
	changed chan struct{}
}

func newWaiter() waiter { return waiter{done: make(chan struct{}), changed: make(chan struct{})} }

// say sets what it waits for.
func (w *waiter) say(wait Wait) {
	if w.wait.Reason == wait.Reason && w.wait.String() == wait.String() {
		return
	}
	w.wait = wait
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *waiter) isDone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// finish makes the outcome known, once.
func (w *waiter) finish(err error) {
	if w.isDone() {
		return
	}
	w.err = err
	close(w.done)
}

// await returns when the outcome is known, or with an error that says what was waited for when ctx ends.
func (r *Room) await(ctx context.Context, w *waiter, tell func(Wait)) error {
	told := ""
	for {
		r.mu.Lock()
		wait, changed := w.wait, w.changed
		r.mu.Unlock()
		select {
		case <-w.done:
			return w.err
		default:
		}
		if text := wait.String(); tell != nil && text != told {
			told = text
			tell(wait)
		}
		select {
		case <-w.done:
			return w.err
		case <-ctx.Done():
			return &WaitError{Wait: wait, Err: context.Cause(ctx)}
		case <-changed:
		}
	}
}

// WaitError is a request whose context ended while it waited.
type WaitError struct {
	Wait Wait
	Err  error // the context's
}

func (e *WaitError) Error() string {
	if e.Wait.Reason == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v, while %v", e.Err, e.Wait)
}

// Unwrap is the context's error.
func (e *WaitError) Unwrap() error { return e.Err }
