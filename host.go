package mlx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// HostedModel is a model that a Host loads on demand.
type HostedModel struct {
	Name    string       // what Acquire is called with
	Path    string       // what LoadModel takes
	Options []LoadOption // what LoadModel takes, but for WithHost and WithMemoryBudget
}

// HostOptions are the settings of a Host. The zero value keeps every model that was loaded.
type HostOptions struct {
	// Budget is how many bytes all models of the host may hold together: weights, drafts and adapters once for each process that
	// loads them, prompt caches, and KV. 0 sets no limit. A model counts with its weight files, its prompt cache and the KV of one
	// request of 4,096 tokens before it is loaded, and with what it holds by MLX's account if that comes to be more.
	Budget int64
	// IdleTTL is how long a model without requests stays loaded; 0 keeps it.
	IdleTTL time.Duration
	// Logger logs loads, closes and waits; nil for none.
	Logger *slog.Logger
	// Events is called with the events of every model's load, as the func of WithEvents is. It must not close the host.
	Events func(model string, e Event)
}

// Host, which NewHost makes, keeps named models of both engines in one memory budget: a model is loaded when it is first asked for, and closed when it was
// idle for long or when other models need its memory. It is safe for concurrent use.
//
// Requests that need memory wait for it, in the order in which they came, and OnWait says what they wait for. To make room, models
// without requests are closed, the one used longest ago first; if that is not enough, those with requests take no new ones and are
// closed after the last. A model that no longer has to make room takes requests again. After a failed load
// no other model is closed for the next try for a while. A request that needs more memory than is left waits for other requests to end;
// then models without requests are closed for it. ErrBudget is the error of what would not fit into an empty host, and of a request of the
// native engine that does not fit beside models that are pinned or leased.
type Host struct {
	registry *admission.Registry
	options  HostOptions
	notices  chan admission.Notice
	logged   sync.WaitGroup
	closing  sync.Once

	mu     sync.Mutex // guards what follows
	models map[string]*hosted
}

// hosted is what a Host keeps of a model; what decides about loading is in the admission.Registry.
type hosted struct {
	HostedModel
	done, total int64 // of the last load
}

// Errors of a Host, to test for with errors.As, as pointers.
type (
	// UnknownModelError is the error of a name that no model of the host has; see [engine.UnknownModelError].
	UnknownModelError = engine.UnknownModelError
	// RetryError is the error of a request for a model whose last load failed, while others would have to be closed for the next try; see [engine.RetryError].
	RetryError = engine.RetryError
	// WaitError is the error of a request whose context ended while it waited, and says what it waited for; see [engine.WaitError].
	WaitError = engine.WaitError
)

// ErrHostClosed: the host was closed.
var ErrHostClosed = engine.ErrHostClosed

// Wait is what a request, or a model's worker, waits for. Its String is a sentence for people; see [engine.Wait].
type Wait = engine.Wait

// WaitReason is why something waits.
type WaitReason = engine.WaitReason

// Reasons to wait; see the fields of Wait.
const (
	WaitLoad   = engine.WaitLoad   // the model is being loaded
	WaitClose  = engine.WaitClose  // the model is being closed, and is loaded again afterwards
	WaitDrain  = engine.WaitDrain  // the model has to make room for others first
	WaitTurn   = engine.WaitTurn   // others asked for memory before
	WaitMemory = engine.WaitMemory // others hold the memory and are about to give it back
	WaitPinned = engine.WaitPinned // models that may not be closed hold the memory
)

// NewHost names models; none is loaded yet. The caller closes the host.
func NewHost(options HostOptions, models ...HostedModel) (*Host, error) {
	switch {
	case options.Budget < 0:
		return nil, &OptionError{Option: "HostOptions.Budget", Reason: fmt.Sprintf("%d bytes are fewer than none", options.Budget)}
	case options.IdleTTL < 0:
		return nil, &OptionError{Option: "HostOptions.IdleTTL", Reason: fmt.Sprintf("%v is negative", options.IdleTTL)}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Events == nil {
		options.Events = func(string, Event) {}
	}
	h := &Host{options: options, models: map[string]*hosted{}, notices: make(chan admission.Notice, 1024)}
	h.registry = admission.New(admission.Options{Budget: options.Budget, IdleTTL: options.IdleTTL, Notify: func(n admission.Notice) {
		select {
		case h.notices <- n:
		default: // the log is a thousand notices behind; this one is dropped
		}
	}})
	h.logged.Go(func() {
		for n := range h.notices {
			h.log(n)
		}
	})
	for _, m := range models {
		if err := h.Add(m); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	return h, nil
}

// Add names one more model.
func (h *Host) Add(m HostedModel) error {
	if m.Name == "" {
		return &OptionError{Option: "HostedModel.Name", Reason: fmt.Sprintf("the model in %s has none", m.Path)}
	}
	o := loadOptionsOf(m.Options)
	if o.err != nil {
		return fmt.Errorf("model %s: %w", m.Name, o.err)
	}
	for option, given := range map[string]bool{"WithMemoryBudget": o.budget != 0, "WithHost": o.host != nil} {
		if given {
			return &OptionError{Option: option, Reason: "model " + m.Name + ": the host's budget is for all its models; leave the option out"}
		}
	}
	of := &hosted{HostedModel: m}
	of.Options = slices.Clone(m.Options)
	spec := admission.Spec{
		Name: m.Name, Size: func() int64 { return need(of.Path, loadOptionsOf(of.Options)) },
		Open: func(ctx context.Context, memory *admission.Memory) (admission.Model, error) {
			return h.open(ctx, of, memory)
		},
		Measure: func(ctx context.Context, m admission.Model) {
			m.(*model).measure(ctx)
		},
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.registry.Add(spec); err != nil {
		return err
	}
	h.models[m.Name] = of
	return nil
}

// open loads a model in memory that the registry has granted.
func (h *Host) open(ctx context.Context, of *hosted, memory *admission.Memory) (admission.Model, error) {
	o := loadOptionsOf(of.Options)
	own := o.bridge.Events
	o.bridge.Events = func(e Event) {
		if e.Kind == EventLoad {
			h.mu.Lock()
			of.done, of.total = e.Done, e.Total
			h.mu.Unlock()
		}
		if own != nil {
			own(e)
		}
		h.options.Events(of.Name, e)
	}
	h.mu.Lock()
	of.done, of.total = 0, 0
	h.mu.Unlock()
	o.memory = memory
	o.native.MemoryBudget = h.options.Budget // of the whole process, as MLX's account is
	m, err := loadWith(ctx, of.Path, o)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Lease keeps a model of a Host loaded.
type Lease struct {
	Model TextModel // of the host: do not close it
	Name  string
	Path  string

	lease *admission.Lease
}

// Release gives the lease back; it may be called again.
func (l *Lease) Release() {
	if l.lease != nil {
		l.lease.Release()
	}
}

// AcquireOption changes one call of Acquire.
type AcquireOption func(*acquireOptions)

type acquireOptions struct{ tell func(Wait) }

// OnWait calls f with what the call waits for, on the goroutine that calls: once when it begins to wait, and again when that changes; changes of
// numbers only, and of names in the list of a long queue, are told once a second.
func OnWait(f func(Wait)) AcquireOption { return func(o *acquireOptions) { o.tell = f } }

// Acquire returns a model, loading it if need be and closing others to make room. It waits for memory as long as ctx lasts. A load
// goes on when ctx ends, for the next caller. The caller releases the lease when its request is over; a caller that holds one and asks for
// a model that does not fit beside it waits for itself to release it, until ctx ends.
func (h *Host) Acquire(ctx context.Context, name string, options ...AcquireOption) (*Lease, error) {
	var o acquireOptions
	for _, option := range options {
		if option != nil {
			option(&o)
		}
	}
	lease, err := h.registry.Acquire(ctx, name, o.tell)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	path := h.models[name].Path
	h.mu.Unlock()
	return &Lease{Model: lease.Model.(*model).public(), Name: name, Path: path, lease: lease}, nil
}

// Names returns the names of the models, sorted.
func (h *Host) Names() []string { return h.registry.Names() }

// Path returns the folder or file of a model.
func (h *Host) Path(name string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if of := h.models[name]; of != nil {
		return of.Path, nil
	}
	return "", &UnknownModelError{Name: name, Known: h.registry.Names()}
}

// Unload closes a model that has no requests, and reports whether it did.
func (h *Host) Unload(name string) (bool, error) { return h.registry.Unload(name) }

// Pin keeps a model from being closed when others need memory, or no longer does. The model is still closed when it is idle for long.
func (h *Host) Pin(name string, pinned bool) error { return h.registry.Pin(name, pinned) }

// Close closes all models; streams under way end with ErrClosed, and requests that wait with ErrHostClosed. It returns when
// everything is given back. It may be called again.
func (h *Host) Close() error {
	err := h.registry.Close()
	h.closing.Do(func() { close(h.notices) })
	h.logged.Wait()
	return err
}

// ModelPhase is what a model of a Host is going through.
type ModelPhase = engine.ModelPhase

// Phases of a model.
const (
	PhaseCold    = engine.PhaseCold // not loaded
	PhaseLoading = engine.PhaseLoading
	PhaseReady   = engine.PhaseReady
	PhaseClosing = engine.PhaseClosing
	PhaseFailed  = engine.PhaseFailed // the last load failed; the next request tries again
)

// ModelState is a model of a Host at one moment.
type ModelState struct {
	Name, Path  string
	Phase       ModelPhase
	Model       TextModel // nil unless its phase is PhaseReady; it may be closed at any time
	Done, Total int64     // bytes loaded; 0 when not known
	Err         error     // why the last load failed
	Active      int       // leases
	Waiting     int       // requests that wait for it
	Wait        Wait      // what the first of them waits for
	LastUsed    time.Time
	WeightFiles int64 // bytes; see WeightFileBytes
	Held        int64 // bytes of the budget
	Loads       int64 // times that it was loaded
	Evictions   int64 // times that it was closed to make room
	Pinned      bool
}

// HostState is a Host at one moment.
type HostState struct {
	Budget, Used int64        // bytes; a budget of 0 is no limit
	Models       []ModelState // by name
	Waits        []Wait       // what waits for memory, in order
}

// State describes the host and its models.
func (h *Host) State() HostState {
	stat := h.registry.Stat()
	out := HostState{Budget: stat.Budget, Used: stat.Used, Waits: stat.Waits}
	for _, s := range stat.Models {
		h.mu.Lock()
		of := *h.models[s.Name]
		h.mu.Unlock()
		state := ModelState{
			Name: s.Name, Path: of.Path, Phase: s.Phase, Done: of.done, Total: of.total, Err: s.Err, Active: s.Active, Waiting: s.Waiting,
			Wait: s.Wait, LastUsed: s.LastUsed, WeightFiles: WeightFileBytes(of.Path, of.Options...), Held: s.Held, Loads: s.Loads,
			Evictions: s.Evictions, Pinned: s.Pinned,
		}
		if s.Model != nil {
			state.Model = s.Model.(*model).public()
		}
		out.Models = append(out.Models, state)
	}
	return out
}

// log writes what happened to a model.
func (h *Host) log(n admission.Notice) {
	l := h.options.Logger.With("model", n.Model)
	switch n.Kind {
	case admission.NoticeLoad:
		l.Info("model is being loaded", "bytes", n.Bytes)
	case admission.NoticeReady:
		l.Info("model is loaded", "took", n.Took.Round(time.Millisecond))
	case admission.NoticeFailed:
		l.Error("model failed", "error", n.Err)
	case admission.NoticeWait:
		l.Info("model waits", "for", n.Wait.String())
	case admission.NoticeDrain:
		l.Info("model takes no new requests, to make room", "for", n.For)
	case admission.NoticeResume:
		l.Info("model takes requests again")
	case admission.NoticeClose:
		l.Info("model is being closed", "evicted", n.Evicted, "for", n.For)
	}
}
