package bridge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Random operations against a model of the pool. The model knows who asked, in which order, and who holds a slot; after every
// operation, when all is quiet, the pool must agree with it.
//
//	GO_MLX_POOL_OPS=1000000 go test ./bridge -run PoolAgrees
const poolOps = 20000

// opsPerPool is how many operations one pool gets before it is closed and another one, with other limits, made.
const opsPerPool = 500

func TestThePoolAgreesWithItsModel(t *testing.T) {
	testenv.RandomOperations(t, "GO_MLX_POOL", poolOps, opsPerPool, newPoolModel)
}

// asking is a request of the model.
type asking struct {
	ticket  uint64
	session string
	cancel  context.CancelFunc
	gaveUp  bool
	small   bool
	member  *member
	err     error
	over    bool // acquire has returned
}

type poolModel struct {
	*bench
	t        *testing.T
	rng      *rand.Rand
	seed     uint64
	op       string
	mu       sync.Mutex // guards the fields of every asking
	asked    []*asking  // by ticket: those that wait
	holding  []*asking
	watching int
	other    *admission.Claim // of a model beside the pool
}

func newPoolModel(t *testing.T, rng *rand.Rand, seed uint64) testenv.World {
	l := limits{max: 1 + rng.IntN(4), rows: 1 + rng.IntN(4), queue: rng.IntN(12)}
	l.min = rng.IntN(l.max + 1)
	if rng.IntN(2) == 0 {
		l.idle = time.Duration(1+rng.IntN(20)) * time.Second
	}
	registry := admission.New(admission.Options{Budget: int64(1 + rng.IntN(l.max))})
	m := &poolModel{bench: newBenchIn(l, registry), t: t, rng: rng, seed: seed}
	m.limits.queue = l.queue // 0 is a queue that holds nobody
	m.stopTime = time.Duration(rng.IntN(3)) * time.Second
	return m
}

func (m *poolModel) ask(a *asking) {
	ctx, cancel := context.WithCancel(m.t.Context())
	a.cancel = cancel
	// The pool must hand out tickets in the order in which this goroutine asks.
	entered := make(chan struct{})
	go func() {
		close(entered)
		var got *member
		var err error
		ticket := a.ticket
		if a.small {
			got, err = m.anyWorker(ctx)
		} else {
			got, err = m.acquire(ctx, a.session, &ticket)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		a.ticket, a.member, a.err, a.over = ticket, got, err, true
	}()
	<-entered
}

func (m *poolModel) Step() {
	switch k := m.rng.IntN(100); {
	case k < 30: // a request
		m.op = "ask"
		a := &asking{}
		if m.rng.IntN(3) == 0 {
			a.session = fmt.Sprint(m.rng.IntN(4))
		}
		m.asked = append(m.asked, a)
		m.ask(a)
	case k < 55 && len(m.holding) > 0: // one ends, or its worker died and it asks again
		i := m.rng.IntN(len(m.holding))
		a := m.holding[i]
		m.holding = slices.Delete(m.holding, i, i+1)
		dead := !a.member.alive()
		m.op = fmt.Sprint("release, dead ", dead)
		if dead && m.rng.IntN(2) == 0 {
			again := &asking{ticket: a.ticket, session: a.session}
			m.asked = append(m.asked, again)
			m.ask(again)
			synctest.Wait()
		}
		m.release(a.member, !dead && m.rng.IntN(4) > 0)
	case k < 62 && len(m.asked) > 0:
		m.op = "give up"
		a := m.asked[m.rng.IntN(len(m.asked))]
		a.gaveUp = true
		a.cancel()
	case k < 69:
		m.op = "kill"
		m.bench.mu.Lock()
		if n := len(m.members); n > 0 {
			if x := m.members[m.rng.IntN(n)]; x.instance != nil {
				x.instance.(*fakeInstance).end(errFakeDeath)
			}
		}
		m.bench.mu.Unlock()
	case k < 76:
		m.op = "small call"
		a := &asking{small: true}
		m.asked = append(m.asked, a)
		m.ask(a)
	case k < 78:
		m.op = "starts fail, or no more"
		if m.rng.IntN(2) == 0 {
			m.setFail(errFakeDeath)
		} else {
			m.setFail(nil)
		}
	case k < 81:
		m.op = "reset"
		m.watching++
		go func() {
			ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
			defer cancel()
			_ = m.reset(ctx)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.watching--
		}()
	case k < 84:
		m.op = "another model takes memory, or gives it back"
		if m.other != nil {
			m.other.Release()
			m.other = nil
		} else {
			m.other = m.bench.registry.Join("other").Claim(1, admission.Needed)
		}
	case k < 85:
		m.op = "the model's files change"
		m.bench.mu.Lock()
		m.files = fmt.Sprint("weights ", m.rng.IntN(100))
		m.bench.mu.Unlock()
	case k < 86:
		m.op = "a culprit was found"
		ended := &member{state: memberGone} // one that the pool has forgotten, or that it does not know to be dead
		m.bench.mu.Lock()
		for _, x := range m.members {
			if x.instance != nil && m.rng.IntN(2) == 0 {
				ended = x
			}
		}
		m.bench.mu.Unlock()
		if ended.instance != nil {
			ended.instance.(*fakeInstance).end(errFakeDeath)
		}
		m.explained(ended.instance, 1+m.rng.IntN(3))
	case k < 89:
		m.op = "a worker is at work for nobody, or through with that"
		m.bench.mu.Lock()
		for _, x := range m.members {
			if x.instance == nil || m.rng.IntN(2) == 0 {
				continue
			}
			until := time.Time{}
			if m.rng.IntN(2) == 0 {
				until = time.Now().Add(time.Duration(m.rng.IntN(30)) * time.Second)
			}
			x.instance.(*fakeInstance).work(until)
		}
		m.bench.mu.Unlock()
		m.settled()
	default:
		m.op = "time"
		time.Sleep(time.Duration(m.rng.ExpFloat64() * float64(2*time.Second)))
	}
}

// check compares the pool with the model, when nothing moves.
func (m *poolModel) Check() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bench.mu.Lock()
	defer m.bench.mu.Unlock()
	bad := func(format string, args ...any) {
		m.t.Errorf("seed %d, after %q: %s", m.seed, m.op, fmt.Sprintf(format, args...))
	}
	waiting, small := 0, 0
	var lastGranted uint64
	oldest := ^uint64(0)
	m.asked = slices.DeleteFunc(m.asked, func(a *asking) bool {
		if !a.over {
			if a.gaveUp {
				bad("a request that gave up still waits")
			}
			if a.small {
				small++
			} else {
				waiting++
			}
			return false
		}
		switch {
		case a.err == nil && a.small:
		case a.err == nil:
			lastGranted = max(lastGranted, a.ticket)
			m.holding = append(m.holding, a)
		case errors.Is(a.err, context.Canceled), errors.Is(a.err, ErrBusy), errors.Is(a.err, errFakeDeath):
		default:
			bad("a request ended with %v", a.err)
		}
		a.cancel()
		return true
	})
	if waiting != len(m.waiters) || small != len(m.small) {
		bad("%d requests and %d small calls wait, the pool has %d and %d", waiting, small, len(m.waiters), len(m.small))
	}
	fresh := 0
	for i, w := range m.waiters {
		if oldest = min(oldest, w.ticket); w.fresh {
			fresh++
		}
		if i > 0 && m.waiters[i-1].ticket >= w.ticket {
			bad("the row is out of order")
		}
	}
	if fresh != m.fresh {
		bad("%d new requests wait, the pool counts %d", fresh, m.fresh)
	}
	// A request that asked again after a death comes before those that asked later, so no slot is granted past the first in the queue.
	if lastGranted > oldest {
		bad("request %d has a slot, and %d waits", lastGranted, oldest)
	}
	held := map[*member]int{}
	for _, a := range m.holding {
		held[a.member]++
	}
	free, becoming, ready, newest := false, 0, 0, 0
	loaded := map[string]bool{}
	for _, x := range m.members {
		if x.active != held[x] {
			bad("member %d (%v) has %d requests, want %d", x.id, x.state, x.active, held[x])
		}
		if x.active > m.limits.rows {
			bad("member %d has %d requests", x.id, x.active)
		}
		if x.state == memberStopping && x.active > 0 {
			bad("member %d is ended under %d requests", x.id, x.active)
		}
		if x.state == memberReady && x.generation != m.generation {
			bad("member %d of generation %d is ready in %d", x.id, x.generation, m.generation)
		}
		if x.state >= memberReady && !x.alive() {
			bad("member %d is dead and %v", x.id, x.state)
		}
		if x.generation == m.generation && x.state <= memberReady {
			newest++
			if x.state != memberReady {
				becoming++
			} else {
				ready++
				loaded[x.instance.(*fakeInstance).loaded] = true
				free = free || x.active < m.limits.rows
			}
		}
	}
	if len(loaded) > 1 {
		bad("workers with different weights serve: %v", loaded)
	}
	if newest > m.limits.max {
		bad("%d members, at most %d are allowed", newest, m.limits.max)
	}
	if free && waiting > 0 {
		bad("%d requests wait beside a free slot", waiting)
	}
	if small > 0 && ready > 0 {
		bad("small calls wait beside a worker")
	}
	// No request waits without a reason: a worker starts, or all that may be there are full, or a timer will try again.
	if (waiting > 0 && ready < m.limits.max || small > 0) && becoming == 0 && m.timer == nil {
		bad("%d requests and %d small calls wait, %d ready, none starts, and no timer is set", waiting, small, ready)
	}
	spare, idle, offered := m.count()-m.least(), 0, 0
	for _, x := range m.members {
		if x.offered {
			offered++
		}
		if x.state == memberReady && x.active == 0 && !x.instance.(*fakeInstance).busyUntil().After(time.Now()) {
			idle++
		}
	}
	if want := min(max(spare, 0), idle); len(m.watchers) == 0 && !m.closed && offered != want {
		bad("%d members are offered to other models, want %d", offered, want)
	}
	if m.limits.idle > 0 {
		for _, x := range m.members {
			if at, ok := m.expiry(x); ok && (m.timer == nil || time.Now().After(at.Add(time.Millisecond))) {
				bad("member %d is idle since %v and no timer ends it", x.id, time.Since(x.idle))
			}
		}
	}
}

// finish lets everything end by itself, and closes the pool: all that wait are served when starts work.
func (m *poolModel) Finish() {
	m.setFail(nil)
	if m.other != nil {
		m.other.Release()
	}
	for range 200 {
		for _, a := range m.holding {
			m.release(a.member, true)
		}
		m.holding = nil
		time.Sleep(breakPeriod / 2)
		synctest.Wait()
		m.Check()
		if len(m.asked) == 0 || m.t.Failed() {
			break
		}
	}
	if len(m.asked) > 0 {
		m.t.Errorf("seed %d: %d requests are never served", m.seed, len(m.asked))
	}
	for _, a := range m.holding {
		m.release(a.member, true)
	}
	time.Sleep(2 * time.Minute) // resets give up
	m.close()
	synctest.Wait()
	if used := m.bench.registry.Stat().Used; used != 0 {
		m.t.Errorf("seed %d: %d workers still hold memory", m.seed, used)
	}
	if len(m.members) > 0 || m.watching > 0 {
		m.t.Errorf("seed %d: %d members and %d watchers are left", m.seed, len(m.members), m.watching)
	}
	var ticket uint64
	if _, err := m.acquire(m.t.Context(), "", &ticket); !errors.Is(err, engine.ErrClosed) {
		m.t.Errorf("seed %d: a closed pool says %v", m.seed, err)
	}
}
