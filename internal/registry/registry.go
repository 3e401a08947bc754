// Package registry keeps named models: it loads one when it is first asked for, closes it when it was idle for long, and
// makes room for another one.
package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// ErrClosed: the registry was closed.
var ErrClosed = errors.New("no more models are served")

// UnknownModelError is a name that no model has.
type UnknownModelError struct {
	Name  string
	Known []string
}

func (e *UnknownModelError) Error() string {
	return fmt.Sprintf("there is no model %q; there are %s", e.Name, strings.Join(e.Known, ", "))
}

// Model says where a model is and how it is loaded.
type Model struct {
	Name    string
	Path    string // a folder of Hugging Face layout
	Options []mlx.LoadOption
}

// Options are the settings of a Registry; the zero value keeps everything that was loaded.
type Options struct {
	// TTL is how long a model without requests stays loaded; 0 keeps it.
	TTL time.Duration
	// Budget is how many bytes of weights may be loaded together, those of drafts, adapters and of every worker of the python
	// engine counted; 0 sets no limit. Models without requests are closed to make room, the one that was used longest ago first; if there is none, the one used longest ago takes no more
	// requests until its last one has ended.
	Budget int64
	// Events is told of loading progress and restarts.
	Events func(model string, e mlx.Event)

	weights func(m Model) int64                                                               // bytes that a model will need; for tests
	open    func(ctx context.Context, m Model, events func(mlx.Event)) (mlx.TextModel, error) // for tests
}

// A model whose last load failed has others closed for its next try only after a while, which doubles with every failure: one
// that cannot be loaded must not close, request by request, those that can. Where there is room it is tried at once.
const (
	retryFirst = 30 * time.Second
	retryMost  = 10 * time.Minute
)

// RetryError is a request for a model whose last load failed and that others would have to be closed for.
type RetryError struct {
	After time.Duration
	Err   error // of the last load
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("its last load failed, and others are not closed for it for another %v: %v", e.After.Round(time.Second), e.Err)
}

func (e *RetryError) Unwrap() error { return e.Err }

// minStay is how long a loaded model takes requests before it has to make room while it has some.
const minStay = 5 * time.Second

// Phase is what a model is going through.
type Phase string

// Phases.
const (
	Cold    Phase = "cold"
	Loading Phase = "loading"
	Ready   Phase = "ready"
	Closing Phase = "closing"
	Failed  Phase = "failed" // the last load; the next request tries again
)

// Registry is a set of models. It is safe for concurrent use.
type Registry struct {
	options Options
	ctx     context.Context // of loads
	cancel  context.CancelFunc
	work    sync.WaitGroup // loads and closes under way

	mu      sync.Mutex // guards what follows, and the entries
	entries []*entry   // by name
	wanted  []*entry   // that wait for room, in turn
	uses    int64      // counts leases given and taken back
	closed  bool
	changed chan struct{} // closed and replaced when a model may have become free
}

// entry is one model.
type entry struct {
	Model
	bytes int64 // of its weight files

	phase       Phase
	attempt     *attempt // the last load
	model       mlx.TextModel
	active      int  // leases
	waiters     int  // requests that wait for it
	draining    bool // takes no more leases, to make room
	readySince  time.Time
	lastUsed    time.Time
	turn        int64     // of uses, the last one: what was used longest ago has the smallest
	failures    int       // loads that failed in a row
	failedAt    time.Time // the last of them
	idle        *time.Timer
	done, total int64
	loads       int64
	evictions   int64
	closeErr    error
}

// attempt is one load.
type attempt struct {
	over chan struct{}
	err  error
}

// New names models; none is loaded yet.
func New(models []Model, options Options) (*Registry, error) {
	if options.open == nil {
		options.open = open
	}
	if options.weights == nil {
		options.weights = func(m Model) int64 { return mlx.WeightFileBytes(m.Path, m.Options...) }
	}
	if options.Events == nil {
		options.Events = func(string, mlx.Event) {}
	}
	r := &Registry{options: options, changed: make(chan struct{})}
	for _, m := range models {
		if m.Name == "" {
			return nil, fmt.Errorf("model %s has no name", m.Path)
		}
		if r.find(m.Name) != nil {
			return nil, fmt.Errorf("two models have the name %q", m.Name)
		}
		r.entries = append(r.entries, &entry{Model: m, bytes: options.weights(m), phase: Cold})
	}
	if len(r.entries) == 0 {
		return nil, errors.New("no models are named")
	}
	slices.SortFunc(r.entries, func(a, b *entry) int { return strings.Compare(a.Name, b.Name) })
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

func open(ctx context.Context, m Model, events func(mlx.Event)) (mlx.TextModel, error) {
	return mlx.LoadModelContext(ctx, m.Path, append(slices.Clone(m.Options), mlx.WithLoadEvents(events))...)
}

func (r *Registry) find(name string) *entry {
	for _, e := range r.entries {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// Names are the models, sorted.
func (r *Registry) Names() []string {
	var out []string
	for _, e := range r.entries {
		out = append(out, e.Name)
	}
	return out
}

// Path is the folder of a model.
func (r *Registry) Path(name string) (string, error) {
	if e := r.find(name); e != nil {
		return e.Path, nil
	}
	return "", &UnknownModelError{Name: name, Known: r.Names()}
}

// Lease keeps a model loaded.
type Lease struct {
	Model mlx.TextModel
	Name  string
	Path  string

	registry *Registry
	entry    *entry
	once     sync.Once
}

// Release gives the lease back; it may be called again.
func (l *Lease) Release() { l.once.Do(func() { l.registry.release(l.entry) }) }

// Acquire returns a model, loading it if need be, and closing others to make room. A load goes on when ctx ends, for
// whoever asks next. The caller releases the lease.
func (r *Registry) Acquire(ctx context.Context, name string) (*Lease, error) {
	counted := false
	for {
		lease, wait, err := r.tryAcquire(name)
		if lease != nil || err != nil {
			return lease, err
		}
		if !counted { // it keeps its turn in the queue until this request is through
			counted = true
			defer r.await(wait.entry)()
		}
		var retry <-chan time.Time
		if wait.retry > 0 {
			retry = time.After(wait.retry)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("model %s: waiting for it: %w", name, context.Cause(ctx))
		case <-wait.changed:
		case <-retry:
		}
		if a := wait.attempt; a != nil {
			select {
			case <-a.over:
				if a.err != nil {
					return nil, fmt.Errorf("model %s: %w", name, a.err)
				}
			default:
			}
		}
	}
}

// waiting is what tells that it is time to try again.
type waiting struct {
	entry   *entry
	changed <-chan struct{}
	attempt *attempt
	retry   time.Duration
}

func (r *Registry) tryAcquire(name string) (*Lease, waiting, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, waiting{}, ErrClosed
	}
	e := r.find(name)
	if e == nil {
		return nil, waiting{}, &UnknownModelError{Name: name, Known: r.Names()}
	}
	switch {
	case e.phase == Ready && !e.draining:
		e.active++
		r.touch(e)
		e.stopIdle()
		return &Lease{Model: e.model, Name: e.Name, Path: e.Path, registry: r, entry: e}, waiting{}, nil
	case e.phase == Loading:
		return nil, waiting{entry: e, changed: e.attempt.over, attempt: e.attempt}, nil
	case e.phase == Ready || e.phase == Closing:
		return nil, waiting{entry: e, changed: r.changed}, nil
	}
	retry, err := r.makeRoom(e)
	if err != nil {
		return nil, waiting{}, fmt.Errorf("model %s: %w", name, err)
	}
	if retry != 0 {
		return nil, waiting{entry: e, changed: r.changed, retry: retry}, nil
	}
	a := &attempt{over: make(chan struct{})}
	e.phase, e.attempt, e.done, e.total = Loading, a, 0, 0
	e.loads++
	r.unwant(e)
	r.work.Go(func() { r.load(e, a) })
	return nil, waiting{entry: e, changed: a.over, attempt: a}, nil
}

// await counts a request that waits until the returned func is called.
func (r *Registry) await(e *entry) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.waiters++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.waiters--; e.waiters == 0 {
			r.unwant(e)
			r.notify()
		}
	}
}

// unwant takes a model out of the queue for room. What was to be closed for it takes requests again; who still wants room asks
// anew what has to go.
func (r *Registry) unwant(e *entry) {
	before := len(r.wanted)
	r.wanted = slices.DeleteFunc(r.wanted, func(other *entry) bool { return other == e })
	if len(r.wanted) == before {
		return
	}
	for _, other := range r.entries {
		other.draining = false
	}
	r.notify()
}

// touch notes that a model is used.
func (r *Registry) touch(e *entry) {
	r.uses++
	e.turn, e.lastUsed = r.uses, time.Now()
}

// makeRoom returns 0 if e fits, or how long to wait at most before trying again. The caller holds the mutex.
func (r *Registry) makeRoom(e *entry) (retry time.Duration, err error) {
	if r.options.Budget == 0 {
		return 0, nil
	}
	var used int64
	var loaded []*entry
	for _, other := range r.entries {
		if other.phase == Loading || other.phase == Ready || other.phase == Closing {
			used += other.bytes
		}
		if other.phase == Ready {
			loaded = append(loaded, other)
		}
	}
	if e.bytes > r.options.Budget {
		return 0, fmt.Errorf("%w: its weights have %d bytes, of %d for all models", mlx.ErrBudget, e.bytes, r.options.Budget)
	}
	missing := used + e.bytes - r.options.Budget
	if missing <= 0 && (len(r.wanted) == 0 || r.wanted[0] == e) {
		return 0, nil
	}
	if e.failures > 0 {
		if left := min(retryFirst<<min(e.failures-1, 10), retryMost) - time.Since(e.failedAt); left > 0 {
			return 0, &RetryError{After: left, Err: e.attempt.err}
		}
	}
	if !slices.Contains(r.wanted, e) {
		r.wanted = append(r.wanted, e)
	}
	if r.wanted[0] != e {
		return time.Minute, nil
	}
	for _, other := range r.entries { // what is on its way out already counts
		if other.phase == Closing || other.draining {
			missing -= other.bytes
		}
	}
	slices.SortFunc(loaded, func(a, b *entry) int { return cmp.Compare(a.turn, b.turn) })
	for _, busy := range []bool{false, true} {
		for _, other := range loaded {
			if missing <= 0 {
				return time.Minute, nil
			}
			// Who waits for a model that was just loaded has not had it yet.
			if (other.active+other.waiters > 0) != busy || other.draining || other.phase != Ready {
				continue
			}
			if stayed := time.Since(other.readySince); busy && stayed < minStay {
				return minStay - stayed, nil
			}
			missing -= other.bytes
			other.evictions++
			if other.active > 0 {
				other.draining = true
			} else {
				r.startClosing(other)
			}
		}
	}
	return time.Minute, nil
}

// load runs without the mutex.
func (r *Registry) load(e *entry, a *attempt) {
	model, err := r.options.open(r.ctx, e.Model, func(event mlx.Event) {
		if event.Kind == mlx.EventLoad {
			r.mu.Lock()
			e.done, e.total = event.Done, event.Total
			r.mu.Unlock()
		}
		r.options.Events(e.Name, event)
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	switch a.err = err; {
	case err != nil && r.ctx.Err() == nil:
		e.phase, e.failedAt = Failed, time.Now()
		e.failures++
	case err != nil:
		e.phase = Failed
	default:
		e.phase, e.model, e.readySince, e.failures = Ready, model, time.Now(), 0
		r.touch(e)
		if r.closed {
			r.startClosing(e) // the load was over before it saw the end
		} else {
			r.startIdle(e)
		}
	}
	close(a.over)
	r.notify()
}

// release gives one lease back.
func (r *Registry) release(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.active--
	r.touch(e)
	if e.active > 0 {
		return
	}
	switch {
	case e.phase != Ready: // closed over it
	case e.draining:
		r.startClosing(e)
	default:
		r.startIdle(e)
	}
	r.notify()
}

func (r *Registry) startIdle(e *entry) {
	if r.options.TTL == 0 {
		return
	}
	e.stopIdle()
	var timer *time.Timer
	timer = time.AfterFunc(r.options.TTL, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.idle == timer && e.phase == Ready && e.active == 0 {
			r.startClosing(e)
		}
	})
	e.idle = timer
}

func (e *entry) stopIdle() {
	if e.idle != nil {
		e.idle.Stop()
		e.idle = nil
	}
}

// startClosing closes a model beside the caller, who holds the mutex.
func (r *Registry) startClosing(e *entry) {
	e.stopIdle()
	model := e.model
	e.phase, e.model, e.draining = Closing, nil, false
	r.work.Go(func() {
		err := model.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		e.phase, e.closeErr = Cold, err
		r.notify()
	})
}

// notify wakes those who wait; the caller holds the mutex.
func (r *Registry) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Close closes all models; streams under way end with mlx.ErrClosed. It returns when everything is given back.
func (r *Registry) Close() error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		r.cancel()
		for _, e := range r.entries {
			if e.phase == Ready {
				r.startClosing(e)
			}
		}
		r.notify()
	}
	r.mu.Unlock()
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, e := range r.entries {
		errs = append(errs, e.closeErr)
	}
	return errors.Join(errs...)
}
