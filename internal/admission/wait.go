package admission

import (
	"context"
	"slices"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// waiter is a request or a claim that waits. Its fields are guarded by the Registry's lock; done is closed when the outcome is known.
type waiter struct {
	done    chan struct{}
	err     error
	wait    engine.Wait
	untold  bool          // wait has changed since changed was written to
	changed chan struct{} // of capacity 1: wakes the waiting goroutine, which reads wait and tells its caller
}

func newWaiter() waiter { return waiter{done: make(chan struct{}), changed: make(chan struct{}, 1)} }

// tellEvery is how often those who wait are told that numbers have changed, or names in a list that is cut off. Any event of a long
// queue changes these for all waiters, so telling each of them each time would cost the square of its length. A change of the reason,
// and of the names of a short list, is told at once.
const tellEvery = time.Second

// say sets what the waiter waits for, and wakes its goroutine to tell the caller, now or later. Caller must hold r.mu; only reconcile calls it, which sets
// r.tellCounts before.
func (r *Registry) say(w *waiter, wait engine.Wait) {
	now := r.tellCounts
	if !w.wait.Equal(wait) {
		now = now || w.wait.Reason != wait.Reason ||
			w.wait.Others == 0 && wait.Others == 0 && !slices.Equal(w.wait.Models, wait.Models)
		w.wait, w.untold = wait, true
	}
	switch {
	case !w.untold:
	case now:
		w.untold = false
		r.toldSome = true
		select {
		case w.changed <- struct{}{}:
		default: // it was not read since the change before
		}
	default:
		r.untold = true
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

// await returns when the outcome is known, or with an error that says what was waited for when ctx ends. A caller that had to wait is told so, even
// if the wait was over before this goroutine ran.
func (r *Registry) await(ctx context.Context, w *waiter, tell func(engine.Wait)) error {
	told := ""
	changed := w.changed
	if tell == nil {
		changed = nil // no goroutine has to be woken for it
	}
	for first := true; ; first = false {
		wait := r.waitOf(w)
		if !first && w.isDone() {
			return w.err
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
