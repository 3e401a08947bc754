package admission

import (
	"context"

	"forge.lthn.ai/core/go-mlx/engine"
)

// waiter is a request or a claim that waits. Its fields are guarded by the Registry's lock; done is closed when the outcome is known.
type waiter struct {
	done    chan struct{}
	err     error
	wait    engine.Wait
	changed chan struct{} // of capacity 1, has something in it when wait is another one than was read last
}

func newWaiter() waiter { return waiter{done: make(chan struct{}), changed: make(chan struct{}, 1)} }

// say sets what it waits for.
func (w *waiter) say(wait engine.Wait) {
	if w.wait.Equal(wait) {
		return
	}
	w.wait = wait
	select {
	case w.changed <- struct{}{}:
	default: // it was not read since the change before
	}
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
func (r *Registry) await(ctx context.Context, w *waiter, tell func(engine.Wait)) error {
	told := ""
	changed := w.changed
	if tell == nil {
		changed = nil // nobody is to be woken for it
	}
	for {
		wait := r.waitOf(w)
		select {
		case <-w.done:
			return w.err
		default:
		}
		if tell != nil {
			if text := wait.String(); text != told {
				told = text
				tell(wait)
			}
		}
		select {
		case <-w.done:
			return w.err
		case <-ctx.Done():
			return &engine.WaitError{Wait: r.waitOf(w), Err: context.Cause(ctx)}
		case <-changed:
		}
	}
}

func (r *Registry) waitOf(w *waiter) engine.Wait {
	r.mu.Lock()
	defer r.mu.Unlock()
	return w.wait
}
