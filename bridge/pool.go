package bridge

import (
	"context"
	"slices"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// limits are what a pool may do.
type limits struct {
	min, max int           // members kept, and at most
	rows     int           // requests that one member takes at a time
	queue    int           // new requests that may wait
	idle     time.Duration // after this long without work, members beyond min end; 0 keeps them
}

// pool keeps the workers of one model. There are two lanes. Requests that compute take a slot of a worker, in the order in which
// they first asked: of the worker that their session was with, or the one with the fewest requests. When all are full another
// one is started, up to the limit; then requests wait. Small calls take no slot and disturb nothing: see anyWorker.
//
// All that happens is a change of the fields under mu, followed by reconcile, which does what the new state asks for. Nothing
// else grants, starts or ends anything. The methods of a claim take the lock of the admission.Registry, so that lock comes after mu: the Registry
// never calls a pool while it holds its own.
type pool struct {
	limits limits
	// claim asks for the memory of one worker; the pool waits until it is granted and releases it when the worker is gone.
	// It is called with mu held, so that claims are in the order of what wants them.
	claim func(admission.Urgency) *admission.Claim
	// start starts a worker in memory that was granted. The start is the pool's, not a caller's: a request that gives up leaves
	// the worker to the next one.
	start   func(context.Context, *admission.Claim) (instance, error)
	onCrash func(error)       // called without locks when a worker ended that nobody had stopped
	onWait  func(engine.Wait) // called without locks when a start waits for memory

	infancy time.Duration // the constant; tests in which workers die young have a longer one

	mu         sync.Mutex // guards what follows; not held while a worker starts or stops
	members    []*member
	waiters    []*waiter  // by ticket
	fresh      int        // of these, how many no worker had before: only they count in the queue's length
	small      []*waiter  // small calls that wait for a worker
	watchers   []*watcher // those who wait until there are workers
	orphans    int        // requests whose worker died and that hold its slot until they have another
	generation int
	weights    string // of the generation's workers; "" before one is up
	nextID     uint64
	nextTicket uint64
	crashes    backoff // workers that died at work
	failures   backoff // workers that did not come up, or died before they did anything
	closed     bool
	timer      *time.Timer
	stats      poolStats

	ctx    context.Context // ends with the pool: workers being started are given up
	cancel context.CancelFunc
	lives  sync.WaitGroup // one for each member
}

// waiter is a request without a worker. granted is closed when it has one, or never will.
type waiter struct {
	ticket  uint64
	fresh   bool // no worker had it before
	session string
	granted chan struct{}
	member  *member
	err     error
}

// watcher waits until n workers of a generation are ready.
type watcher struct {
	n, generation int
	done          chan struct{}
	err           error
}

type poolStats struct {
	served, refused, abandoned, starts, crashed int64
}

func newPool(l limits, claim func(admission.Urgency) *admission.Claim, start func(context.Context, *admission.Claim) (instance, error)) *pool {
	p := &pool{limits: l, claim: claim, start: start, onCrash: func(error) {}, onWait: func(engine.Wait) {}, infancy: infancy}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// acquire gives a request a slot. The caller gives it back with release. ticket holds the request's place in the queue: zero at
// its first call, and set by that. A request that has one, whose worker died, was served already: it is never refused,
// and comes before those that came after it.
func (p *pool) acquire(ctx context.Context, session string, ticket *uint64) (*member, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{session: session, granted: make(chan struct{})}
	p.mu.Lock()
	fresh := *ticket == 0
	if p.closed {
		p.mu.Unlock()
		return nil, engine.ErrClosed
	}
	if fresh {
		p.nextTicket++
		*ticket = p.nextTicket
	}
	w.ticket, w.fresh = *ticket, fresh
	at, _ := p.place(w.ticket)
	p.waiters = slices.Insert(p.waiters, at, w)
	if fresh {
		p.fresh++
	}
	p.reconcile()
	if fresh && w.member == nil && w.err == nil && p.fresh > p.limits.queue+p.coming() {
		err := &BusyError{Waiting: p.fresh - 1, Workers: p.live()}
		p.withdraw(w)
		p.stats.refused++
		p.reconcile()
		p.mu.Unlock()
		return nil, err
	}
	p.mu.Unlock()
	return p.await(ctx, w)
}

// coming is how many new requests wait because no worker is up yet, and not because all are full: as many as the first one takes, beside
// those whose worker died, which have their slots again then. Caller must hold p.mu.
func (p *pool) coming() int {
	if slices.ContainsFunc(p.members, func(m *member) bool { return m.generation == p.generation && m.state == memberReady && m.alive() }) {
		return 0
	}
	return max(0, p.limits.rows-(len(p.waiters)-p.fresh))
}

// anyWorker gives a small call a worker that lives, however many requests that has. If there is none, the call waits for the one that
// starts; if none starts, one is started, in memory that nobody else waits for: no model is closed for it. The call takes no slot, so it
// gives none back, and it keeps no idle worker from ending, even while it runs.
func (p *pool) anyWorker(ctx context.Context) (*member, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{granted: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, engine.ErrClosed
	}
	p.small = append(p.small, w)
	p.reconcile()
	p.mu.Unlock()
	return p.await(ctx, w)
}

// peek is a live worker, or nil. Nothing is started.
func (p *pool) peek() (*member, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, engine.ErrClosed
	}
	return p.pickSmall(), nil
}

func (p *pool) await(ctx context.Context, w *waiter) (*member, error) {
	select {
	case <-w.granted:
		return w.member, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	if w.member != nil || w.err != nil { // granted meanwhile
		p.mu.Unlock()
		if w.member != nil && w.ticket != 0 {
			p.release(w.member, false)
		}
		return nil, ctx.Err()
	}
	p.withdraw(w)
	if w.ticket != 0 {
		p.stats.abandoned++
	}
	p.reconcile()
	p.mu.Unlock()
	return nil, ctx.Err()
}

// ensure starts workers until n of the newest generation are ready, and returns then, or with the first error.
func (p *pool) ensure(ctx context.Context, n int) error { return p.change(ctx, n, func() {}) }

// change does something to the pool, under its lock, and waits like ensure for what that causes: a start that fails at once is seen, too.
func (p *pool) change(ctx context.Context, n int, do func()) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return engine.ErrClosed
	}
	do()
	w := &watcher{n: n, generation: p.generation, done: make(chan struct{})}
	p.watchers = append(p.watchers, w)
	p.reconcile()
	p.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = slices.DeleteFunc(p.watchers, func(x *watcher) bool { return x == w })
	p.reconcile()
	return ctx.Err()
}

// release gives a slot back; ok says that the worker served the request.
func (p *pool) release(m *member, ok bool) {
	p.mu.Lock()
	if m.active--; m.state == memberGone {
		p.orphans--
	}
	m.idle = time.Now()
	if ok {
		m.served++
		p.stats.served++
		p.proven(m)
	}
	if !m.alive() {
		p.died(m) // the request may see the end before the pool does
	}
	p.reconcile()
	p.mu.Unlock()
}

// works says that a worker gets things done, before the request is over.
func (p *pool) works(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proven(m)
}

// settled says that a worker is through with what was given up.
func (p *pool) settled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reconcile()
}

// explained takes crashes back, of which that of last is the last: it was found what caused them, and that is no reason to start no more
// workers.
func (p *pool) explained(last instance, crashes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := slices.IndexFunc(p.members, func(m *member) bool { return m.instance != nil && m.instance == last }); at >= 0 && !p.members[at].alive() {
		p.died(p.members[at]) // a request may see the end before the pool does
	}
	p.crashes.forgive(crashes)
	p.failures.forgive(crashes)
	p.reconcile()
}

// reset makes every request from now on go to workers that are started from now on, and returns when the
// first of them is ready. Requests under way end where they are.
func (p *pool) reset(ctx context.Context) error {
	return p.change(ctx, 1, func() {
		p.generation++
		p.weights = ""
		p.crashes.reset()
		p.failures.reset()
	})
}

// close ends every worker and returns when all are reaped.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.reconcile()
	p.mu.Unlock()
	p.cancel()
	p.lives.Wait()
}

func (p *pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// live is the number of live workers. Caller must hold p.mu.
func (p *pool) live() int {
	n := 0
	for _, m := range p.members {
		if (m.state == memberReady || m.state == memberDraining) && m.alive() {
			n++
		}
	}
	return n
}

// workers is the number of live workers.
func (p *pool) workers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live()
}
