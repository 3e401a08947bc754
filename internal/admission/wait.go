package admission

import "context"

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
