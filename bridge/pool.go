package bridge

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// limits are what a pool may do.
type limits struct {
	min, max int           // workers kept, and at most
	rows     int           // requests that one worker takes at a time
	queue    int           // requests that may wait
	idle     time.Duration // after this long without work, workers beyond min end; 0 keeps them
}

// pool keeps the workers of one model. Requests are served in the order they came: by the worker their
// session was with, or the one with the fewest requests. When all are full another one is started, up to
// the limit; then requests wait.
type pool struct {
	limits limits
	// start starts a worker and loads the model. The start is the pool's, not a caller's: a request that
	// gives up leaves the worker to the next one.
	start func(context.Context) (*worker, error)
	// Called without locks: when the last request of the pool is over, when a worker is gone, and when
	// one is gone that nobody had stopped.
	onIdle, onGone func()
	onCrash        func(error)

	mu         sync.Mutex // guards what follows; not held while a worker starts or stops
	members    []*member
	waiters    []*waiter // in the order they came
	generation int
	nextID     uint64
	crashes    backoff
	evicted    bool // end of all workers was wanted; none is started before the next request
	closed     bool
	used       time.Time // end of the last request
	timer      *time.Timer
	wakes      time.Time // when the timer fires; zero if it does not
	stats      poolStats

	ctx    context.Context // ends with the pool: workers being started are given up
	cancel context.CancelFunc
	lives  sync.WaitGroup // one for each member
}

// member is a place in the pool with its worker.
type member struct {
	id         uint64
	generation int
	worker     *worker // nil while it starts
	exclusive  bool    // it serves one request alone
	reserved   *waiter // it takes nothing new until this one can have it alone
	stopping   bool
	served     int64
	crashed    bool      // its death is counted
	idle       time.Time // end of its last request
}

// waiter is a request without a worker. granted is closed when it has one, or never will.
type waiter struct {
	session   string
	exclusive bool
	warm      bool // it only waits for a worker to be started; a failed start is its error
	granted   chan struct{}
	member    *member
	err       error
}

type poolStats struct {
	served, refused, abandoned, starts, crashed, evicted int64
}

func newPool(l limits, start func(context.Context) (*worker, error)) *pool {
	p := &pool{limits: l, start: start, onIdle: func() {}, onGone: func() {}, onCrash: func(error) {}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// warm starts n workers and returns when all are ready, or with the first error.
func (p *pool) warm(ctx context.Context, n int) error {
	p.mu.Lock()
	var fresh []*waiter
	for range n {
		// Each asks to be alone, so that each gets a worker of its own.
		w := &waiter{exclusive: true, warm: true, granted: make(chan struct{})}
		p.waiters = append(p.waiters, w)
		fresh = append(fresh, w)
		p.launch()
	}
	p.mu.Unlock()
	var first error
	for _, w := range fresh {
		m, err := p.await(ctx, w)
		if err == nil {
			defer p.release(m, false)
		} else if first == nil {
			first = err
		}
	}
	return first
}

// acquire gives a request a worker. The caller gives it back with release. An exclusive request is
// alone on its worker.
func (p *pool) acquire(ctx context.Context, session string, exclusive bool) (*member, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{session: session, exclusive: exclusive, granted: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, engine.ErrClosed
	}
	p.evicted = false
	p.waiters = append(p.waiters, w)
	p.dispatch()
	if w.member == nil && w.err == nil && len(p.waiters) > p.limits.queue {
		err := &BusyError{Waiting: len(p.waiters) - 1, Workers: p.live()}
		p.withdraw(w)
		p.stats.refused++
		p.mu.Unlock()
		return nil, err
	}
	p.mu.Unlock()
	return p.await(ctx, w)
}

func (p *pool) await(ctx context.Context, w *waiter) (*member, error) {
	select {
	case <-w.granted:
		return w.member, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	if w.member != nil { // granted meanwhile
		p.mu.Unlock()
		p.release(w.member, false)
		return nil, ctx.Err()
	}
	p.withdraw(w)
	p.stats.abandoned++
	p.dispatch() // what it had reserved is free
	p.mu.Unlock()
	return nil, ctx.Err()
}

// withdraw forgets a waiter. Caller must hold p.mu.
func (p *pool) withdraw(w *waiter) {
	p.waiters = slices.DeleteFunc(p.waiters, func(x *waiter) bool { return x == w })
	for _, m := range p.members {
		if m.reserved == w {
			m.reserved = nil
		}
	}
}

// failAll ends all waiting with an error. Caller must hold p.mu.
func (p *pool) failAll(err error) {
	for _, w := range slices.Clone(p.waiters) {
		p.fail(w, err)
	}
}

func (p *pool) fail(w *waiter, err error) {
	p.withdraw(w)
	w.err = err
	close(w.granted)
}

// dispatch gives workers to those who wait and starts workers that are missing. Caller must hold p.mu.
func (p *pool) dispatch() {
	if p.closed {
		return
	}
	for _, w := range slices.Clone(p.waiters) {
		if m := p.pick(w); m != nil {
			p.withdraw(w)
			m.exclusive, m.reserved = w.exclusive, nil
			m.worker.active.Add(1)
			w.member = m
			close(w.granted)
		}
	}
	starting := 0
	for _, m := range p.members {
		if m.worker == nil {
			starting++
		}
	}
	if len(p.waiters) > 0 && starting == 0 {
		p.launch()
	}
	for !p.evicted && p.count() < p.limits.min && p.launch() {
	}
}

// pick chooses a worker for a waiter; nil if it has to wait on. Caller must hold p.mu.
func (p *pool) pick(w *waiter) *member {
	var best, home, drain *member
	var weight uint64
	reserved := false
	for _, m := range p.members {
		if m.worker == nil || m.stopping || m.generation != p.generation || !m.worker.alive() {
			continue
		}
		active := int(m.worker.active.Load())
		if w.exclusive {
			if active == 0 && (m.reserved == nil || m.reserved == w) {
				return m
			}
			reserved = reserved || m.reserved == w
			if m.reserved == nil && (drain == nil || active < int(drain.worker.active.Load())) {
				drain = m
			}
			continue
		}
		if w.session != "" {
			// The worker of a session is the one with the highest hash of both: no table to keep, and
			// when a worker goes only its own sessions move.
			if h := maphash.Comparable(sessionSeed, sessionKey{w.session, m.id}); home == nil || h > weight {
				home, weight = m, h
			}
		}
		if m.exclusive || m.reserved != nil || active >= p.limits.rows {
			continue
		}
		if best == nil || active < int(best.worker.active.Load()) {
			best = m
		}
	}
	if w.exclusive {
		if drain != nil && !reserved {
			drain.reserved = w
		}
		return nil
	}
	if home != nil && !home.exclusive && home.reserved == nil && int(home.worker.active.Load()) < p.limits.rows {
		return home
	}
	return best
}

var sessionSeed = maphash.MakeSeed()

type sessionKey struct {
	session string
	member  uint64
}

// count is the number of members that will serve this generation; live, of those that do. Caller must
// hold p.mu.
func (p *pool) count() int {
	n := 0
	for _, m := range p.members {
		if !m.stopping && m.generation == p.generation {
			n++
		}
	}
	return n
}

func (p *pool) live() int {
	n := 0
	for _, m := range p.members {
		if m.worker != nil && !m.stopping && m.worker.alive() {
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

// release gives a worker back; ok says that it served the request.
func (p *pool) release(m *member, ok bool) {
	p.mu.Lock()
	m.worker.active.Add(-1)
	m.exclusive = false
	m.idle = time.Now()
	p.used = m.idle
	if ok {
		m.served++
		p.stats.served++
		p.crashes.reset()
	}
	if !m.worker.alive() {
		p.countDeath(m)
	}
	p.dispatch()
	p.sweep()
	idle := len(p.waiters) == 0
	for _, x := range p.members {
		idle = idle && (x.worker == nil || x.worker.active.Load() == 0)
	}
	p.mu.Unlock()
	if idle {
		p.onIdle()
	}
}

// share lets a worker that served one request alone take others too.
func (p *pool) share(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.exclusive = false
	p.dispatch()
}
