package bridge

import (
	"context"
	"sync"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// pool keeps a fixed number of workers with one model loaded. A worker that died is replaced when the
// next request needs its place.
type pool struct {
	start func(context.Context) (*worker, error) // starts a worker and loads the model

	mu     sync.Mutex // guards what follows; not held while a worker starts
	slots  []slot
	closed bool

	ctx    context.Context // ends with the pool: workers being started are given up
	cancel context.CancelFunc
	starts sync.WaitGroup
}

// slot is a place for a worker.
type slot struct {
	worker   *worker
	starting chan struct{} // closed when the start under way ended; nil if there is none
	failure  error         // of the last start
}

func newPool(size int, start func(context.Context) (*worker, error)) *pool {
	p := &pool{start: start, slots: make([]slot, size)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// warm starts every worker and returns the first error.
func (p *pool) warm(ctx context.Context) error {
	for i := range p.slots {
		p.mu.Lock()
		p.launch(i)
		p.mu.Unlock()
	}
	for i := range p.slots {
		if _, err := p.wait(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// launch begins to fill a slot. The start is the pool's, not the caller's: a request that gives up
// leaves the worker to the next one. Caller must hold p.mu.
func (p *pool) launch(i int) {
	if p.closed || p.slots[i].starting != nil {
		return
	}
	done := make(chan struct{})
	p.slots[i] = slot{starting: done}
	p.starts.Go(func() {
		w, err := p.start(p.ctx)
		p.mu.Lock()
		p.slots[i] = slot{worker: w, failure: err}
		p.mu.Unlock()
		close(done)
	})
}

// wait returns the worker of a slot whose start was launched.
func (p *pool) wait(ctx context.Context, i int) (*worker, error) {
	p.mu.Lock()
	starting := p.slots[i].starting
	p.mu.Unlock()
	if starting != nil {
		select {
		case <-starting:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, engine.ErrClosed
	}
	return p.slots[i].worker, p.slots[i].failure
}

// acquire returns the live worker with the fewest requests and counts one more on it. The caller gives
// it back with release.
func (p *pool) acquire(ctx context.Context) (*worker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, engine.ErrClosed
	}
	best, empty := -1, -1
	for i, s := range p.slots {
		if s.worker == nil || !s.worker.alive() {
			empty = i
			continue
		}
		if best < 0 || s.worker.active.Load() < p.slots[best].worker.active.Load() {
			best = i
		}
	}
	if empty >= 0 {
		p.launch(empty)
	}
	if best >= 0 {
		w := p.slots[best].worker
		w.active.Add(1)
		p.mu.Unlock()
		return w, nil
	}
	p.mu.Unlock()
	w, err := p.wait(ctx, empty)
	if err != nil {
		return nil, err
	}
	w.active.Add(1)
	return w, nil
}

func (p *pool) release(w *worker) { w.active.Add(-1) }

// workers is the number of live workers.
func (p *pool) workers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.slots {
		if s.worker != nil && s.worker.alive() {
			n++
		}
	}
	return n
}

// close ends every worker and returns when all are reaped.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.starts.Wait()
	var stops sync.WaitGroup
	for _, s := range p.slots {
		if s.worker != nil {
			stops.Go(s.worker.stop)
		}
	}
	stops.Wait()
}
