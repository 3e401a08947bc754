// Package owner is what the requests to a loaded model share: the thread that makes its MLX calls, the memory budget, the counters and
// the model's end.
package owner

import (
	"context"
	"errors"
	"runtime/debug"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// CacheLimit is how many bytes of freed buffers MLX may keep between requests.
const CacheLimit = 256 << 20

// Owner is what all requests to a model share: the thread that makes its MLX calls, its memory budget, its counters, and the
// model's end.
type Owner struct {
	Lease    *mlxc.Lease
	Budget   int64          // of MLX's active bytes; 0 for no bound
	Releases []func() error // each gives memory back that is only kept for later requests; Reserve calls them in turn, on the owner thread
	// MakeRoom gives back what is held beside this model and not used; see engine.NativeOptions. It may be nil, and is not called on the
	// owner thread.
	MakeRoom func(ctx context.Context, bytes int64) bool
	Counters counters
	Closed   chan struct{} // closed when the model's end begins: waiting requests stop
}

// counters are of what was computed since the model was loaded.
type counters struct {
	Requests, Active, Prompt, Generated, Classified, Drafted, Accepted atomic.Int64
}

// NewOwner leases a thread. Its lease must be released.
func NewOwner(budget int64) (*Owner, error) {
	lease, err := mlxc.Acquire()
	if err != nil {
		return nil, err
	}
	return &Owner{Lease: lease, Budget: budget, Closed: make(chan struct{})}, nil
}

// Begin counts a request, which ends when the func that it returns is called.
func (o *Owner) Begin() (end func()) {
	o.Counters.Requests.Add(1)
	o.Counters.Active.Add(1)
	return func() { o.Counters.Active.Add(-1) }
}

// Do runs fn on the owner thread, in turn with other requests.
func (o *Owner) Do(ctx context.Context, fn func() error) error {
	var err error
	if doErr := o.Lease.Do(ctx, func() { err = fn() }); doErr != nil {
		return explain(doErr)
	}
	return err
}

// Job runs work in a scope of its own on the owner thread.
func (o *Owner) Job(ctx context.Context, work func(s *mlxc.Scope) error) error {
	return o.Do(ctx, func() (err error) {
		s := o.Lease.NewScope()
		defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(CacheLimit)) }()
		if err := work(s); err != nil {
			return err
		}
		return s.Err()
	})
}

// CheckOpen refuses requests whose context has ended, or whose model is closed.
func (o *Owner) CheckOpen(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-o.Closed:
		return engine.ErrClosed
	default:
		return nil
	}
}

// Reserve returns nil if this many more bytes fit into the budget, giving back KV that is only kept for
// later requests if that is needed. Without a budget nothing is estimated: passes of one token come here.
func (o *Owner) Reserve(what string, estimate func() int64) error {
	if o.Budget == 0 {
		return nil
	}
	bytes := estimate()
	for i := 0; ; i++ {
		memory, err := mlxc.ReadMemory()
		if err != nil {
			return err
		}
		used := int64(memory.Active)
		if used+bytes <= o.Budget {
			return nil
		}
		if i == len(o.Releases) {
			return &engine.BudgetError{What: what, Needed: bytes, Used: used, Budget: o.Budget, Pinned: used}
		}
		if err := o.Releases[i](); err != nil {
			return err
		}
	}
}

// explain gives errors of a model that is being closed their public name.
func explain(err error) error {
	if errors.Is(err, mlxc.ErrReleased) {
		return engine.ErrClosed
	}
	return err
}

// Protect runs fn; a panic in it comes back as an error.
func Protect(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &mlxc.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn()
}
