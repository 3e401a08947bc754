// Package admission decides which models may be in memory. A Registry has a budget in bytes and a set of named models. A model is
// loaded when it is first asked for and closed when it was idle for long or when another one needs its memory. Everything that takes
// memory (the load of a model, a further worker process) waits in one queue for it, whichever engine computes.
//
// The package knows neither engines nor processes: callers give it the functions that open and measure a model.
package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// A model whose last load failed has others closed for its next try only after a while, which doubles with every failure: a model
// that cannot be loaded must not close, request by request, those that can. Where memory is free it is tried at once.
const (
	retryFirst = 30 * time.Second
	retryMost  = 10 * time.Minute
)

const (
	// minStay is how long a loaded model that has requests takes new ones before it has to make room for another model.
	minStay = 5 * time.Second
	// measureEvery is how often models are measured while somebody waits for memory.
	measureEvery = time.Second
)

// Model is what a Registry loads and closes.
type Model interface{ Close() error }

// Spec is a model that a Registry loads on demand.
type Spec struct {
	Name string
	// Size returns how many bytes are reserved before the model is loaded. It may read files.
	Size func() int64
	// Open loads the model. It claims from memory what it holds, and gives that back when it is closed or if it fails.
	Open func(ctx context.Context, memory *Memory) (Model, error)
	// Measure sets the claims of the loaded model to what it holds now, if it learns that before ctx ends; nil if that is known
	// without asking.
	Measure func(context.Context, Model)
}

// Options are the settings of a Registry. The zero value keeps every model that was loaded.
type Options struct {
	Budget  int64         // bytes that all models may hold together; 0 for no limit
	IdleTTL time.Duration // how long a model without requests stays loaded; 0 keeps it
	// Notify is told what happens to the named models. It is called with the Registry's lock held: it must return at once and not
	// call the Registry.
	Notify func(Notice)
}

// Registry is a memory budget with the models that share it. It is safe for concurrent use.
type Registry struct {
	options Options
	ctx     context.Context // of loads; ends with the Registry
	cancel  context.CancelFunc
	work    sync.WaitGroup // loads, closes and measurements under way

	mu         sync.Mutex // guards what follows, and every entry, Memory, Claim and request
	used       int64      // bytes of all granted claims
	entries    []*entry   // named models, by name
	memories   []*Memory  // everything that may hold memory
	claims     []*Claim   // that wait for memory; reconcile puts them in order
	offers     []*Claim   // granted ones that are given back when others need the memory, the one offered longest ago first
	nextTicket uint64
	uses       int64 // counts leases given and returned
	timer      *time.Timer
	measuring  bool
	measured   time.Time // when the last measurement ended
	before     nameList  // of grant; kept so that its memory is used again

	// About the reconcile under way: whether waiters are told of changed numbers, whether any was told something, and whether some are to
	// be told later. toldCounts is when waiters were last told of numbers.
	tellCounts, toldSome, untold bool
	toldCounts                   time.Time
	closed                       bool
}

// New returns a Registry without models.
func New(options Options) *Registry {
	if options.Notify == nil {
		options.Notify = func(Notice) {}
	}
	r := &Registry{options: options}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Add names a model. It is not loaded yet.
func (r *Registry) Add(spec Spec) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return engine.ErrHostClosed
	}
	at, taken := r.search(spec.Name)
	if taken {
		return fmt.Errorf("two models have the name %q", spec.Name)
	}
	e := &entry{spec: spec, phase: engine.PhaseCold}
	e.memory = &Memory{registry: r, name: spec.Name, entry: e}
	r.memories = append(r.memories, e.memory)
	r.entries = slices.Insert(r.entries, at, e)
	return nil
}

// Join adds a model that its caller loads and closes: its claims count, and it is never closed for others. The caller ends that
// with Leave.
func (r *Registry) Join(name string) *Memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &Memory{registry: r, name: name}
	r.memories = append(r.memories, m)
	return m
}

// find returns the entry of a name. Caller must hold r.mu.
func (r *Registry) find(name string) (*entry, error) {
	if at, found := r.search(name); found {
		return r.entries[at], nil
	}
	return nil, &engine.UnknownModelError{Name: name, Known: r.names()}
}

// search returns the index of a name's entry in r.entries, or where it would be inserted.
func (r *Registry) search(name string) (at int, found bool) {
	return slices.BinarySearchFunc(r.entries, name, func(e *entry, name string) int { return strings.Compare(e.spec.Name, name) })
}

// Names are the named models, sorted.
func (r *Registry) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names()
}

func (r *Registry) names() []string {
	var out []string
	for _, e := range r.entries {
		out = append(out, e.spec.Name)
	}
	return out
}

// Unload closes a model that has no requests and reports whether it did.
func (r *Registry) Unload(name string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(name)
	if err != nil || e.phase != engine.PhaseReady || e.active > 0 {
		return false, err
	}
	r.startClosing(e, false, "")
	r.reconcile()
	return true, nil
}

// Pin keeps a model from being closed when others need its memory, or no longer does. It is still closed when it is idle for long.
func (r *Registry) Pin(name string, pinned bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(name)
	if err == nil {
		e.memory.pinned = pinned
		r.reconcile()
	}
	return err
}

// Close ends all waiting with ErrClosed and closes all named models, also those with leases. It returns when everything is closed.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.closed = true
	r.reconcile()
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, e := range r.entries {
		if e.closeErr != nil {
			errs = append(errs, fmt.Errorf("model %s: close: %w", e.spec.Name, e.closeErr))
		}
	}
	return errors.Join(errs...)
}
