package bridge

import (
	"context"
	"log/slog"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
)

// mailbox hands what is put into it to a func on a goroutine of its own, so that no reader of a pipe, and nothing that ends or starts a
// worker, waits for the user's code, or ends with it: the func may even end its goroutine, as t.FailNow does.
type mailbox[T any] struct {
	handle func(T)
	// add appends an item to the pending ones, or drops one. It is called with mu held.
	add func(pending []T, next T) []T

	mu      sync.Mutex // guards what follows
	pending []T
	running bool // a goroutine hands out
	closed  bool
	idle    sync.WaitGroup // of that goroutine
}

// put adds something. It does not wait.
func (b *mailbox[T]) put(x T) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.pending = b.add(b.pending, x)
	b.start()
}

// start sees to it that what is pending is handed out. Caller must hold b.mu.
func (b *mailbox[T]) start() {
	if !b.running && len(b.pending) > 0 {
		b.running = true
		b.idle.Add(1)
		go b.run()
	}
}

// run hands out what is pending. If the func ends the goroutine, another one goes on.
func (b *mailbox[T]) run() {
	defer b.idle.Done()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.running = false
		b.start()
	}()
	for {
		b.mu.Lock()
		if len(b.pending) == 0 {
			b.mu.Unlock()
			return
		}
		x := b.pending[0]
		b.pending = b.pending[1:]
		b.mu.Unlock()
		b.handle(x)
	}
}

// close returns when the func has seen everything.
func (b *mailbox[T]) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.idle.Wait()
}

// newEvents makes the mailbox of a func that is told events; nil for none. If the func is too slow, progress is dropped; other
// events are not.
func newEvents(handle func(engine.Event)) *mailbox[engine.Event] {
	if handle == nil {
		return nil
	}
	return &mailbox[engine.Event]{handle: handle, add: func(pending []engine.Event, e engine.Event) []engine.Event {
		if n := len(pending); n > 0 && e.Err == nil && pending[n-1].Kind == e.Kind && pending[n-1].Label == e.Label {
			pending[n-1] = e
			return pending
		}
		return append(pending, e)
	}}
}

// logBehind is how many records may be pending for a slow logger before some are dropped.
const logBehind = 1024

// queuedLog is a slog.Handler that queues records, so that its callers never wait for the handler that writes them.
type queuedLog struct {
	slog.Handler
	records *mailbox[func()]
}

// newQueuedLog makes a logger that does not wait for another one. close waits until that has seen all.
func newQueuedLog(l *slog.Logger) (logger *slog.Logger, close func()) {
	records := &mailbox[func()]{handle: func(f func()) { f() }, add: func(pending []func(), f func()) []func() {
		if len(pending) >= logBehind {
			return pending
		}
		return append(pending, f)
	}}
	return slog.New(queuedLog{l.Handler(), records}), records.close
}

func (q queuedLog) Handle(ctx context.Context, r slog.Record) error {
	ctx, r = context.WithoutCancel(ctx), r.Clone()
	q.records.put(func() { _ = q.Handler.Handle(ctx, r) })
	return nil
}

func (q queuedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return queuedLog{q.Handler.WithAttrs(attrs), q.records}
}

func (q queuedLog) WithGroup(name string) slog.Handler {
	return queuedLog{q.Handler.WithGroup(name), q.records}
}
