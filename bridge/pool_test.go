package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// The pool's tests run in a bubble with a clock of its own, over instances without processes.

// fakeInstance ends when it is told to.
type fakeInstance struct {
	gone chan struct{}
	once sync.Once
	slow time.Duration // from stop to the end
	err  error

	loaded string // weights

	mu   sync.Mutex // guards what follows
	busy time.Time  // until when it is at work for nobody
}

var errFakeDeath = errors.New("killed by the test")

func (f *fakeInstance) done() <-chan struct{} { return f.gone }
func (f *fakeInstance) failure() error        { return f.err }
func (f *fakeInstance) weights() string       { return f.loaded }

func (f *fakeInstance) busyUntil() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.busy
}

// work makes it at work for nobody until a time.
func (f *fakeInstance) work(until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = until
}

func (f *fakeInstance) end(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.gone)
	})
}

func (f *fakeInstance) stop() {
	select {
	case <-time.After(f.slow):
	case <-f.gone:
	}
	f.end(engine.ErrClosed)
}

// bench is a pool whose starts take a second, and fail while fail says so. A worker needs one byte of the budget.
type bench struct {
	*pool
	registry *admission.Registry
	memory   *admission.Memory
	fail     error
	stopTime time.Duration
	files    string // the weights that a start loads
	started  []*fakeInstance
}

func newBench(l limits) *bench { return newBenchIn(l, admission.New(admission.Options{})) }

func newBenchIn(l limits, registry *admission.Registry) *bench {
	b := &bench{registry: registry, memory: registry.Join("bench"), files: "the first"}
	if l.queue == 0 {
		l.queue = 1000
	}
	claim := func(u admission.Urgency) *admission.Claim { return b.memory.Claim(1, u) }
	b.pool = newPool(l, claim, func(ctx context.Context, _ *admission.Claim) (instance, error) {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.fail != nil {
			return nil, b.fail
		}
		f := &fakeInstance{gone: make(chan struct{}), slow: b.stopTime, loaded: b.files}
		b.started = append(b.started, f)
		return f, nil
	})
	return b
}

func (b *bench) setFail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

func (b *bench) take(t *testing.T, session string) *member {
	t.Helper()
	var ticket uint64
	m, err := b.acquire(t.Context(), session, &ticket)
	require.NoError(t, err)
	return m
}

func (b *bench) states() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		out = append(out, m.state.String())
	}
	return out
}

func (b *bench) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiters)
}

func poolTest(t *testing.T, l limits, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(l)
		defer b.close()
		f(t, b)
	})
}

func TestPoolRefusesWhatTheQueueCannotHold(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 2, queue: 3}, func(t *testing.T, b *bench) {
		one, two := b.take(t, ""), b.take(t, "")
		ctx, cancel := context.WithCancel(t.Context())
		for range 3 {
			go func() {
				var ticket uint64
				_, _ = b.acquire(ctx, "", &ticket)
			}()
		}
		synctest.Wait()
		var ticket uint64
		_, err := b.acquire(t.Context(), "", &ticket)
		require.ErrorIs(t, err, ErrBusy)
		var busy *BusyError
		require.ErrorAs(t, err, &busy)
		require.Equal(t, BusyError{Waiting: 3, Workers: 1}, *busy)
		// One whose worker died has been served already.
		old := uint64(1)
		result := make(chan error)
		go func() {
			m, err := b.acquire(t.Context(), "", &old)
			if err == nil {
				b.release(m, true)
			}
			result <- err
		}()
		synctest.Wait()
		require.Equal(t, 4, b.waiting())
		b.release(one, true)
		require.NoError(t, <-result, "and it comes before those that came later")
		cancel()
		synctest.Wait()
		require.Zero(t, b.waiting())
		require.EqualValues(t, 1, b.stats.refused)
		b.release(two, true)
	})
}

// Where no worker is up, none is full: as many requests as the first one takes wait for it, beside those in the queue.
func TestRequestsForAWorkerThatStartsTakeNoPlaceInTheQueue(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 2}, func(t *testing.T, b *bench) {
		b.limits.queue = 0 // it holds nobody
		ask := func() chan error {
			got := make(chan error, 1)
			go func() {
				m, err := b.acquire(t.Context(), "", new(uint64))
				if got <- err; err == nil {
					time.Sleep(time.Minute)
					b.release(m, true)
				}
			}()
			synctest.Wait()
			return got
		}
		first, second, third := ask(), ask(), ask()
		require.ErrorIs(t, <-third, ErrBusy)
		require.NoError(t, <-first)
		require.NoError(t, <-second)
		require.ErrorIs(t, <-ask(), ErrBusy, "it is up, and full")
		go func() { _ = b.reset(t.Context()) }()
		synctest.Wait()
		require.NoError(t, <-ask(), "the next one is not")
		time.Sleep(2 * time.Minute)
	})
}

// Every request that comes or goes is an event, so what an event costs must not depend on how many wait.
func TestPoolDoesNotGoThroughALongQueue(t *testing.T) {
	poolTest(t, limits{min: 1, max: 1, rows: 1, queue: 20000}, func(t *testing.T, b *bench) {
		full := b.take(t, "")
		const requests = 10000
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range requests {
			group.Go(func() {
				of := t.Context()
				if i%2 == 0 {
					of = ctx // gives up
				}
				m, err := b.acquire(of, "", new(uint64))
				if err == nil {
					b.release(m, true)
				} else if of != ctx {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		require.Equal(t, requests, b.waiting())
		require.Zero(t, testing.AllocsPerRun(10, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.reconcile()
		}), "it copies no queue")
		cancel()
		synctest.Wait()
		require.Equal(t, requests/2, b.waiting())
		b.release(full, true)
		group.Wait()
		require.Zero(t, b.waiting())
		require.EqualValues(t, 1+requests/2, b.stats.served)
	})
}

func TestPoolServesInOrderAndGrowsOnlyWhenFull(t *testing.T) {
	poolTest(t, limits{max: 3, rows: 2}, func(t *testing.T, b *bench) {
		var all []*member
		for i := range 6 {
			all = append(all, b.take(t, ""))
			require.Len(t, b.states(), i/2+1)
		}
		var mu sync.Mutex
		var order []int
		for i := range 4 {
			go func() {
				m := b.take(t, "")
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				b.release(m, true)
			}()
			synctest.Wait()
		}
		b.release(all[0], true)
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3}, order)
		for _, m := range all[1:] {
			b.release(m, true)
		}
	})
}

func TestPoolEndsIdleWorkersDownToTheLeast(t *testing.T) {
	poolTest(t, limits{min: 1, max: 3, rows: 1, idle: time.Minute}, func(t *testing.T, b *bench) {
		require.NoError(t, b.ensure(t.Context(), 1))
		a, c, d := b.take(t, ""), b.take(t, ""), b.take(t, "")
		b.release(a, true)
		time.Sleep(30 * time.Second)
		b.release(c, true)
		b.release(d, true)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		require.Len(t, b.states(), 2)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"ready"}, b.states())
		time.Sleep(time.Hour)
		require.Equal(t, []string{"ready"}, b.states())
		require.EqualValues(t, 3, b.stats.starts)
		require.Zero(t, b.stats.crashed)
	})
}

// A cold start whose requester gave up leaves a worker that was never used: its idle time counts, too.
func TestPoolEndsAnIdleWorkerThatServedNobody(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 1, idle: time.Minute}, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var ticket uint64
		_, err := b.acquire(ctx, "", &ticket)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		require.Equal(t, []string{"ready"}, b.states())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, b.states())
	})
}

// Requests that come while the only worker is on its way out wait for the next one.
// A worker that goes on with a request that was given up is not idle: it does not end before it is through with it, or its watchdog has found that
// it hangs.
func TestPoolKeepsAWorkerThatIsAtWorkForNobody(t *testing.T) {
	poolTest(t, limits{max: 2, rows: 1, idle: time.Minute}, func(t *testing.T, b *bench) {
		one := b.take(t, "")
		two := b.take(t, "")
		f := b.started[0]
		f.work(time.Now().Add(time.Hour))
		b.release(one, false)
		b.release(two, false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"ready"}, b.states(), "the other one was idle")
		f.work(time.Time{})
		b.settled()
		synctest.Wait()
		require.Empty(t, b.states())
		// It does not live for ever where it never says that it is through.
		one = b.take(t, "")
		b.started[2].work(time.Now().Add(time.Hour))
		b.release(one, false)
		time.Sleep(time.Hour - time.Second)
		synctest.Wait()
		require.Equal(t, []string{"ready"}, b.states())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, b.states())
	})
	for _, ends := range []string{"through", "in time"} {
		synctest.Test(t, func(t *testing.T) {
			registry := admission.New(admission.Options{Budget: 1})
			b := newBenchIn(limits{max: 1, rows: 1}, registry)
			defer b.close()
			one := b.take(t, "")
			b.started[0].work(time.Now().Add(time.Hour))
			b.release(one, false)
			other := registry.Join("other").Claim(1, admission.Needed)
			defer other.Release()
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, []string{"ready"}, b.states())
			if ends == "through" {
				b.started[0].work(time.Time{})
				b.settled()
			} else {
				time.Sleep(time.Hour)
			}
			synctest.Wait()
			require.Empty(t, b.states(), ends)
			require.NoError(t, other.Await(t.Context(), nil))
		})
	}
}

func TestPoolServesRequestsThatComeWhileTheOnlyWorkerEnds(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 1, idle: time.Minute}, func(t *testing.T, b *bench) {
		b.stopTime = 5 * time.Second
		b.release(b.take(t, ""), true)
		time.Sleep(time.Minute + time.Second)
		require.Equal(t, []string{"stopping"}, b.states())
		b.release(b.take(t, ""), true)
		require.EqualValues(t, 2, b.stats.starts)
	})
}

func TestPoolKeepsASessionOnItsWorker(t *testing.T) {
	poolTest(t, limits{min: 3, max: 3, rows: 4}, func(t *testing.T, b *bench) {
		require.NoError(t, b.ensure(t.Context(), 3))
		where := map[string]uint64{}
		for i := range 300 {
			session := fmt.Sprint("chat ", i%30)
			m := b.take(t, session)
			if home, ok := where[session]; ok {
				require.Equal(t, home, m.id)
			}
			where[session] = m.id
			b.release(m, true)
		}
		count := map[uint64]int{}
		for _, id := range where {
			count[id]++
		}
		require.Len(t, count, 3, "sessions spread over the workers")
		var all []*member
		for range 5 {
			all = append(all, b.take(t, "chat 1"))
		}
		require.Equal(t, where["chat 1"], all[3].id)
		require.NotEqual(t, where["chat 1"], all[4].id, "a full home is no reason to wait")
		for _, m := range all {
			b.release(m, true)
		}
	})
}

func TestPoolResetServesNewRequestsWithNewWorkers(t *testing.T) {
	poolTest(t, limits{min: 1, max: 1, rows: 4}, func(t *testing.T, b *bench) {
		old := b.take(t, "")
		require.NoError(t, b.reset(t.Context()))
		require.Equal(t, []string{"draining", "ready"}, b.states())
		m := b.take(t, "")
		require.Equal(t, 1, m.generation)
		b.release(old, true)
		synctest.Wait()
		require.Equal(t, []string{"ready"}, b.states())
		b.release(m, true)
		require.Zero(t, b.stats.crashed)
	})
}

// One worker serves; a second one never comes up. That must not cost a start for every request served.
func TestPoolSpacesStartsThatFailBesideAWorkerThatServes(t *testing.T) {
	poolTest(t, limits{min: 1, max: 2, rows: 1}, func(t *testing.T, b *bench) {
		require.NoError(t, b.ensure(t.Context(), 1))
		b.setFail(errFakeDeath)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for ctx.Err() == nil {
					var ticket uint64
					m, err := b.acquire(ctx, "", &ticket)
					if err != nil {
						continue
					}
					time.Sleep(10 * time.Millisecond)
					b.release(m, true)
				}
			})
		}
		time.Sleep(time.Minute)
		b.mu.Lock()
		starts := b.stats.starts
		b.mu.Unlock()
		require.LessOrEqual(t, starts, int64(1+breakAfter+2))
		require.GreaterOrEqual(t, starts, int64(breakAfter))
		b.setFail(nil)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"ready", "ready"}, b.states(), "it is tried again")
		cancel()
		group.Wait()
	})
}

// A second worker that comes up and dies, again and again, while the first one serves.
func TestPoolSpacesStartsOfWorkersThatDieAtOnce(t *testing.T) {
	poolTest(t, limits{min: 2, max: 2, rows: 1}, func(t *testing.T, b *bench) {
		require.NoError(t, b.ensure(t.Context(), 2))
		held := b.take(t, "") // of the first one; it lives
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			b.mu.Lock()
			for _, f := range b.started {
				if f != held.instance {
					f.end(errFakeDeath)
				}
			}
			b.mu.Unlock()
			b.release(held, true)
			held = b.take(t, "")
		}
		require.LessOrEqual(t, b.stats.starts, int64(breakAfter+5))
		b.release(held, true)
	})
}

func TestPoolFailsRequestsAtOnceWhileNothingComesUp(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 1}, func(t *testing.T, b *bench) {
		b.setFail(errFakeDeath)
		for range breakAfter {
			var ticket uint64
			_, err := b.acquire(t.Context(), "", &ticket)
			require.ErrorIs(t, err, errFakeDeath)
		}
		at := time.Now()
		var ticket uint64
		_, err := b.acquire(t.Context(), "", &ticket)
		require.ErrorIs(t, err, ErrCrashLoop)
		require.ErrorIs(t, err, errFakeDeath)
		require.Zero(t, time.Since(at))
		b.setFail(nil)
		time.Sleep(breakPeriod)
		b.release(b.take(t, ""), true)
	})
}

func TestARequestWhoseWorkerDiedOutlivesAStartThatFails(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 2}, func(t *testing.T, b *bench) {
		var ticket uint64
		m, err := b.acquire(t.Context(), "", &ticket)
		require.NoError(t, err)
		b.setFail(&WorkerError{State: "exit status 1"})
		m.instance.(*fakeInstance).end(errFakeDeath)
		b.release(m, false)
		again := make(chan error, 2)
		go func() {
			m, err := b.acquire(t.Context(), "", &ticket)
			if err == nil {
				b.release(m, true)
			}
			again <- err
		}()
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, 1, b.waiting())
		b.setFail(nil)
		require.NoError(t, <-again)
		// But not a row of them.
		b.setFail(&WorkerError{State: "exit status 1"})
		m = b.take(t, "")
		m.instance.(*fakeInstance).end(errFakeDeath)
		b.release(m, false)
		_, err = b.acquire(t.Context(), "", &ticket)
		require.ErrorIs(t, err, ErrCrashLoop)
	})
}

func TestSmallCallsTakeNoSlotAndDisturbNothing(t *testing.T) {
	// It does not end at the moment of a call, which would be before or after its end by chance.
	poolTest(t, limits{max: 1, rows: 1, queue: 1, idle: 55 * time.Second}, func(t *testing.T, b *bench) {
		held := b.take(t, "")
		go func() {
			var ticket uint64
			if m, err := b.acquire(t.Context(), "", &ticket); err == nil {
				b.release(m, true)
			}
		}()
		synctest.Wait()
		m, err := b.anyWorker(t.Context()) // full, and so is the queue
		require.NoError(t, err)
		require.Same(t, held, m)
		b.release(held, true)
		for range 30 {
			time.Sleep(10 * time.Second)
			require.EqualValues(t, 1, b.stats.starts)
			m, err := b.peek()
			require.NoError(t, err)
			if m == nil {
				return
			}
			_, err = b.anyWorker(t.Context())
			require.NoError(t, err)
		}
		t.Fatal("small calls keep an idle worker alive")
	})
}

func TestASmallCallStartsAWorkerOnlyInFreeMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := admission.New(admission.Options{Budget: 1})
		b := newBenchIn(limits{max: 2, rows: 1}, registry)
		defer b.close()
		var waits []string
		b.onWait = func(w engine.Wait) { waits = append(waits, w.String()) }
		other := registry.Join("other").Claim(1, admission.Needed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := b.anyWorker(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.Empty(t, b.states(), "nobody waits for it any more")
		require.Empty(t, registry.Stat().Waits)
		require.Zero(t, b.stats.starts)
		require.Len(t, waits, 1)
		// It does not come before what other models need, and becomes as urgent as that when a request comes that computes.
		go func() { _, _ = b.anyWorker(t.Context()) }()
		synctest.Wait()
		first := registry.Join("third").Claim(1, admission.Growth)
		require.Equal(t, []string{"third", "bench"}, waiting(registry))
		go func() { b.release(b.take(t, ""), true) }()
		synctest.Wait()
		require.Equal(t, []string{"bench", "third"}, waiting(registry))
		other.Release()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, b.stats.served)
		require.Empty(t, waiting(registry), "served, and its memory given to the next one")
		first.Release()
	})
}

// waiting are the models whose claims wait, in order.
func waiting(r *admission.Registry) (out []string) {
	for _, w := range r.Stat().Waits {
		out = append(out, w.Model)
	}
	return out
}

// Idle workers beyond the fewest end when another model needs their memory, long before their time.
func TestIdleWorkersGiveTheirMemoryToAnotherModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := admission.New(admission.Options{Budget: 3})
		b := newBenchIn(limits{min: 1, max: 3, rows: 1, idle: time.Hour}, registry)
		defer b.close()
		x, y, z := b.take(t, ""), b.take(t, ""), b.take(t, "")
		other := registry.Join("other").Claim(1, admission.Needed)
		require.Equal(t, []string{"other"}, waiting(registry), "all are busy")
		b.release(x, true)
		synctest.Wait()
		require.Empty(t, waiting(registry))
		require.Equal(t, []string{"ready", "ready"}, b.states())
		b.release(y, true)
		b.release(z, true)
		third := registry.Join("third").Claim(2, admission.Needed)
		synctest.Wait()
		require.Equal(t, []string{"ready", "ready"}, b.states(), "one would not be enough, and one is kept")
		other.Release()
		synctest.Wait()
		require.Equal(t, []string{"ready"}, b.states())
		require.Empty(t, waiting(registry))
		require.Zero(t, b.stats.crashed)
		third.Release()
	})
}

// Others who wait for memory do not get that of a worker that died under requests.
func TestADeadWorkersMemoryIsKeptForTheOneInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := admission.New(admission.Options{Budget: 1})
		b := newBenchIn(limits{max: 1, rows: 1, idle: time.Minute}, registry)
		defer b.close()
		var ticket uint64
		m, err := b.acquire(t.Context(), "", &ticket)
		require.NoError(t, err)
		other := registry.Join("other").Claim(1, admission.Needed)
		again := make(chan error, 1)
		m.instance.(*fakeInstance).end(errFakeDeath)
		synctest.Wait() // the pool knows of the death before the request does
		go func() {
			n, err := b.acquire(t.Context(), "", &ticket)
			b.release(m, false)
			if err == nil {
				b.release(n, true)
			}
			again <- err
		}()
		require.NoError(t, <-again)
		synctest.Wait()
		require.Zero(t, b.orphans)
		require.Empty(t, waiting(registry), "the request was served first; the idle worker then gave its memory up")
		time.Sleep(2 * time.Minute) // it is idle, and goes
		synctest.Wait()
		require.Empty(t, waiting(registry))
		other.Release()
	})
}

func TestAPoolThatEndsFailsEveryWaitingRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(limits{max: 1, rows: 1})
		held := b.take(t, "")
		errs := make(chan error, 2)
		go func() {
			var ticket uint64
			_, err := b.acquire(t.Context(), "", &ticket)
			errs <- err
		}()
		go func() { errs <- b.reset(t.Context()) }()
		synctest.Wait()
		b.close()
		require.ErrorIs(t, <-errs, engine.ErrClosed)
		require.ErrorIs(t, <-errs, engine.ErrClosed)
		b.release(held, false)
		var ticket uint64
		_, err := b.acquire(t.Context(), "", &ticket)
		require.ErrorIs(t, err, engine.ErrClosed)
		_, err = b.anyWorker(t.Context())
		require.ErrorIs(t, err, engine.ErrClosed)
		_, err = b.peek()
		require.ErrorIs(t, err, engine.ErrClosed)
		require.Empty(t, b.states())
	})
}
