package bridge

import (
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
)

// eventQueue hands events to a func on a goroutine of its own, so that no reader of a pipe waits for the
// user's code. Progress that the func is too slow for is left out; what happened is not.
type eventQueue struct {
	mu      sync.Mutex // guards what follows
	pending []engine.Event
	wake    chan struct{}
	done    sync.WaitGroup
	closed  bool
}

func newEventQueue(handle func(engine.Event)) *eventQueue {
	if handle == nil {
		return nil
	}
	q := &eventQueue{wake: make(chan struct{}, 1)}
	q.done.Go(func() {
		for range q.wake {
			q.mu.Lock()
			events := q.pending
			q.pending = nil
			q.mu.Unlock()
			for _, e := range events {
				handle(e)
			}
		}
	})
	return q
}

// put adds an event. It does not wait.
func (q *eventQueue) put(e engine.Event) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if n := len(q.pending); n > 0 && e.Err == nil && q.pending[n-1].Kind == e.Kind && q.pending[n-1].Label == e.Label {
		q.pending[n-1] = e
	} else {
		q.pending = append(q.pending, e)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close returns when the func has seen all events.
func (q *eventQueue) close() {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.closed = true
	close(q.wake)
	q.mu.Unlock()
	q.done.Wait()
}
