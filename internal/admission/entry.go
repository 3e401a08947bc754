package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// entry is a named model. Its fields are guarded by the Registry's lock.
type entry struct {
	spec   Spec
	memory *Memory

	phase      engine.ModelPhase
	model      Model       // of phase Ready
	requests   []*request  // that wait for it, by ticket
	arrived    []*request  // of these, those that came since the last sayWait
	said       engine.Wait // what that told them all
	untold     bool        // and whether some are still to be told
	claim      *Claim      // of the next load; nil while none is wanted
	active     int         // leases
	makesRoom  []string    // names of the models that it takes no new requests for; nil while it does
	readySince time.Time
	lastUsed   time.Time
	use        int64     // of Registry.uses, the last one: what was used longest ago has the smallest
	failures   int       // loads that failed in a row
	failedAt   time.Time // the last of them
	loadErr    error     // of the last load
	closeErr   error     // of the last close
	loads      int64
	evictions  int64
	closing    chan struct{} // of phase Closing: closed when that is over
}

// request is one call of Acquire that waits.
type request struct {
	waiter
	ticket uint64
	bytes  int64 // what the model is expected to need
	lease  *Lease
}

// Lease keeps a model loaded.
type Lease struct {
	Model Model

	registry *Registry
	entry    *entry
	once     sync.Once
}

// Release gives the lease back; it may be called again.
func (l *Lease) Release() { l.once.Do(func() { l.registry.returned(l.entry) }) }

// Acquire returns a model, loading it if need be, and closing others to make room. Requests for models that wait for memory are
// served in the order in which they came. A load goes on when ctx ends, for the next request. tell is told what the request
// waits for, on the calling goroutine; it may be nil. The caller releases the lease. A caller that holds a lease and asks for a model that does
// not fit beside it waits for its own release.
func (r *Registry) Acquire(ctx context.Context, name string, tell func(engine.Wait)) (*Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("model %s: %w", name, context.Cause(ctx))
	}
	r.mu.Lock()
	e, lease, err := r.tryAcquire(name)
	r.nextTicket++
	q := &request{waiter: newWaiter(), ticket: r.nextTicket}
	r.mu.Unlock()
	if lease != nil || err != nil {
		return lease, err
	}
	q.bytes = e.spec.Size() // reads files, so not under the lock; the request has its place in the queue already
	r.measure(ctx)
	r.mu.Lock()
	at, _ := e.place(q)
	e.requests = slices.Insert(e.requests, at, q)
	e.arrived = append(e.arrived, q)
	r.reconcile()
	r.mu.Unlock()
	given := false
	defer func() {
		if !given { // also when tell panics, or ends its goroutine
			r.giveUp(e, q)
		}
	}()
	if err := r.await(ctx, &q.waiter, tell); err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	given = true
	return q.lease, nil
}

// tryAcquire gives a lease of a model that is loaded and takes requests. Caller must hold r.mu.
func (r *Registry) tryAcquire(name string) (*entry, *Lease, error) {
	if r.closed {
		return nil, nil, engine.ErrHostClosed
	}
	e, err := r.find(name)
	if err != nil {
		return nil, nil, err
	}
	if e.phase == engine.PhaseReady && e.makesRoom == nil {
		return e, r.lease(e), nil
	}
	return e, nil, nil
}

// lease counts a lease. Caller must hold r.mu.
func (r *Registry) lease(e *entry) *Lease {
	e.active++
	r.touch(e)
	return &Lease{Model: e.model, registry: r, entry: e}
}

// touch notes that a model is used. Caller must hold r.mu.
func (r *Registry) touch(e *entry) {
	r.uses++
	e.use, e.lastUsed = r.uses, time.Now()
}

// place is where among the requests one is, or would be.
func (e *entry) place(q *request) (at int, found bool) {
	return slices.BinarySearchFunc(e.requests, q.ticket, func(x *request, t uint64) int { return cmp.Compare(x.ticket, t) })
}

// giveUp takes a request back. It may have been granted a lease meanwhile.
func (r *Registry) giveUp(e *entry, q *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, found := e.place(q); found {
		e.requests = slices.Delete(e.requests, at, at+1)
	}
	if q.lease != nil {
		q.lease.once.Do(func() { r.takeBack(e) })
	}
	r.reconcile()
}

// returned takes a lease back.
func (r *Registry) returned(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takeBack(e)
	r.reconcile()
}

func (r *Registry) takeBack(e *entry) {
	e.active--
	r.touch(e)
}

// startLoading loads a model for which memory was granted. Caller must hold r.mu.
func (r *Registry) startLoading(e *entry, c *Claim) {
	m := e.memory
	m.load, m.ticket, m.lost = c, c.ticket, false
	e.phase, e.claim = engine.PhaseLoading, nil
	e.loads++
	r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeLoad, Bytes: c.bytes})
	start := time.Now()
	r.work.Go(func() {
		var model Model
		err := errLoadLeft
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			m.endLoad()
			if err != nil {
				r.loadFailed(e, err)
			} else {
				e.phase, e.model, e.readySince, e.failures, e.loadErr = engine.PhaseReady, model, time.Now(), 0, nil
				r.touch(e)
				r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeReady, Took: time.Since(start)})
			}
			r.reconcile()
		}()
		model, err = e.spec.Open(r.ctx, m)
	})
}

// errLoadLeft is the error of a load during which a func of the user ended the goroutine (runtime.Goexit, t.FailNow).
var errLoadLeft = errors.New("the goroutine of the load was ended by a func that it called")

// loadFailed records that a load failed. Caller must hold r.mu.
func (r *Registry) loadFailed(e *entry, err error) {
	e.phase, e.loadErr = engine.PhaseFailed, err
	if r.closed {
		err = errors.Join(engine.ErrHostClosed, err)
	} else {
		e.failures++
		e.failedAt = time.Now()
	}
	r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeFailed, Err: err})
	r.fail(e, err)
}

// fail ends the requests that wait for a model with an error. Caller must hold r.mu.
func (r *Registry) fail(e *entry, err error) {
	for _, q := range e.requests {
		q.finish(err)
	}
	e.requests = nil
}

// startClosing closes a model on a goroutine of its own. evicted says that its memory is needed; by is the name of the model that needs
// it, if it is a model.
// Caller must hold r.mu.
func (r *Registry) startClosing(e *entry, evicted bool, by string) {
	model := e.model
	e.phase, e.model, e.makesRoom, e.closing = engine.PhaseClosing, nil, nil, make(chan struct{})
	if evicted {
		e.evictions++
	}
	r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeClose, Evicted: evicted, For: by})
	r.work.Go(func() {
		err := model.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		e.phase, e.closeErr = engine.PhaseCold, err
		close(e.closing)
		if err != nil {
			r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeFailed, Err: fmt.Errorf("close: %w", err)})
		}
		r.reconcile()
	})
}

// CloseIdle closes other models without requests, the one used longest ago first, until so many bytes are given back or there is none
// left, and waits until they are closed. may selects the models that may be closed. It reports whether there were any.
// It is for memory that no claim was made for: what a model needs to compute a request.
func (m *Memory) CloseIdle(ctx context.Context, bytes int64, may func(Model) bool) bool {
	r := m.registry
	r.mu.Lock()
	idle := slices.DeleteFunc(slices.Clone(r.entries), func(e *entry) bool {
		mayGo := e.phase == engine.PhaseClosing || e.phase == engine.PhaseReady && e.active == 0 && !e.memory.pinned && may(e.model)
		return !mayGo || e.memory == m
	})
	slices.SortFunc(idle, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.phase, b.phase), cmp.Compare(a.use, b.use)) // "closing" before "ready"
	})
	var ends []<-chan struct{}
	for _, e := range idle {
		if bytes <= 0 {
			break
		}
		bytes -= e.memory.held
		if e.phase == engine.PhaseReady {
			r.startClosing(e, true, m.name)
		}
		ends = append(ends, e.closing)
	}
	if len(ends) > 0 {
		r.reconcile()
	}
	r.mu.Unlock()
	for _, end := range ends {
		select {
		case <-end:
		case <-ctx.Done():
			return false
		}
	}
	return len(ends) > 0
}

// backOff is how long no other model is closed for one whose loads fail.
func (e *entry) backOff(now time.Time) time.Duration {
	if e.failures == 0 {
		return 0
	}
	return max(0, min(retryFirst<<min(e.failures-1, 10), retryMost)-now.Sub(e.failedAt))
}

// measure sets the claims of loaded models to what they hold now, for models that have to be asked.
func (r *Registry) measure(ctx context.Context) {
	r.mu.Lock()
	var all sync.WaitGroup
	for _, e := range r.entries {
		if model, measure := e.model, e.spec.Measure; e.phase == engine.PhaseReady && measure != nil {
			all.Go(func() { measure(ctx, model) })
		}
	}
	r.mu.Unlock()
	all.Wait()
}
