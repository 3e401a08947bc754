package admission

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// fake is a model of a test: it holds one claim, and more where a test makes it.
type fake struct {
	memory *Memory
	closed func()

	mu    sync.Mutex // guards what follows: a measurement reads it on a goroutine of its own
	claim *Claim
}

// holds is the claim for the model's memory.
func (f *fake) holds() *Claim {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claim
}

// becomes replaces the claim.
func (f *fake) becomes(c *Claim) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claim = c
}

func (f *fake) Close() error {
	f.holds().Release()
	f.closed()
	return nil
}

// bench is a Registry with fake models whose loads take a second and whose closes take none.
type bench struct {
	*Registry
	t      *testing.T
	mu     sync.Mutex // guards what follows
	broken map[string]error
	opened []string // names, in the order of the loads' begins
	open   int      // models that are loaded
	bytes  map[string]int64
	extra  map[string]int64 // what a loaded model holds more than was expected, when it is measured
	slow   chan struct{}    // if not nil, closes wait for it

	notesMu sync.Mutex // guards notes, which the Registry adds to with its own lock held: the Registry's lock first, then this one
	notes   []Notice
}

// Loads run beside a test, and so do measurements and notices. These look at what they left there.

func (b *bench) loads() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.opened)
}

func (b *bench) loaded() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

func (b *bench) noticed() []Notice {
	b.notesMu.Lock()
	defer b.notesMu.Unlock()
	return slices.Clone(b.notes)
}

// expect sets how many bytes a model needs when it is loaded, and grow how many more it holds when it is measured afterwards.
func (b *bench) expect(name string, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes[name] = bytes
}

func (b *bench) grow(name string, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.extra[name] = bytes
}

// closesWait makes the closes of models wait until the channel is closed.
func (b *bench) closesWait() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow = make(chan struct{})
	return b.slow
}

func newBench(t *testing.T, o Options, sizes map[string]int64) *bench {
	b := &bench{t: t, broken: map[string]error{}, bytes: sizes, extra: map[string]int64{}}
	o.Notify = func(n Notice) {
		b.notesMu.Lock()
		defer b.notesMu.Unlock()
		b.notes = append(b.notes, n)
	}
	b.Registry = New(o)
	for name := range sizes {
		require.NoError(t, b.Add(Spec{
			Name: name,
			Size: func() int64 {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.bytes[name]
			},
			Open:    func(ctx context.Context, m *Memory) (Model, error) { return b.load(ctx, name, m) },
			Measure: func(_ context.Context, m Model) { b.measureFake(name, m.(*fake)) },
		}))
	}
	return b
}

func (b *bench) load(ctx context.Context, name string, m *Memory) (Model, error) {
	b.mu.Lock()
	bytes := b.bytes[name]
	b.opened = append(b.opened, name)
	b.mu.Unlock()
	f := &fake{memory: m, claim: m.Claim(bytes, Needed)}
	if err := f.claim.Await(ctx, nil); err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		f.claim.Release()
		return nil, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.broken[name]; err != nil {
		f.claim.Release()
		return nil, err
	}
	b.open++
	f.closed = func() {
		b.mu.Lock()
		slow := b.slow
		b.open--
		b.mu.Unlock()
		if slow != nil {
			<-slow
		}
	}
	return f, nil
}

func (b *bench) measureFake(name string, f *fake) {
	b.mu.Lock()
	bytes := b.bytes[name] + b.extra[name]
	b.mu.Unlock()
	f.holds().Resize(bytes)
}

func (b *bench) breaks(name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken[name] = err
}

func (b *bench) state(name string) State {
	for _, s := range b.Stat().Models {
		if s.Name == name {
			return s
		}
	}
	b.t.Fatalf("no model %s", name)
	return State{}
}

func (b *bench) phase(name string) engine.ModelPhase { return b.state(name).Phase }

func (b *bench) use(name string) *Lease {
	b.t.Helper()
	l, err := b.Acquire(b.t.Context(), name, nil)
	require.NoError(b.t, err)
	return l
}

// ask acquires beside the caller; when it returns the request waits, or is through.
func (b *bench) ask(ctx context.Context, name string) *asked {
	a := &asked{done: make(chan struct{})}
	go func() {
		a.lease, a.err = b.Acquire(ctx, name, func(w engine.Wait) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.waits = append(a.waits, w)
		})
		close(a.done)
	}()
	synctest.Wait()
	return a
}

type asked struct {
	done  chan struct{}
	lease *Lease
	err   error
	mu    sync.Mutex
	waits []engine.Wait
}

func (a *asked) told() (out []engine.WaitReason) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.waits {
		out = append(out, w.Reason)
	}
	return out
}

func (a *asked) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waits[len(a.waits)-1].String()
}

func roomTest(t *testing.T, o Options, sizes map[string]int64, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, o, sizes)
		f(t, b)
		require.NoError(t, b.Close())
		require.Zero(t, b.Stat().Used)
		require.Zero(t, b.loaded())
	})
}

func hundreds(names ...string) map[string]int64 {
	out := map[string]int64{}
	for _, n := range names {
		out[n] = 100
	}
	return out
}

func TestManyRequestsLoadAModelOnce(t *testing.T) {
	roomTest(t, Options{}, hundreds("a"), func(t *testing.T, b *bench) {
		var all []*asked
		for range 20 {
			all = append(all, b.ask(t.Context(), "a"))
		}
		require.Equal(t, engine.PhaseLoading, b.phase("a"))
		require.Equal(t, []engine.WaitReason{engine.WaitLoad}, all[0].told())
		for _, a := range all {
			<-a.done
			require.NoError(t, a.err)
		}
		require.Equal(t, 20, b.state("a").Active)
		for _, a := range all {
			a.lease.Release()
			a.lease.Release()
		}
		require.Equal(t, []string{"a"}, b.loads())
		require.Zero(t, b.state("a").Active)
	})
}

// A request that finds its model loading may get it while it finds out how much that needs. It waits for nothing then.
func TestWhoGetsALeaseAtOnceIsToldOfNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{})
		defer r.Close()
		take := func(d time.Duration) { time.Sleep(d) }
		require.NoError(t, r.Add(Spec{
			Name: "a",
			Size: func() int64 { take(2 * time.Second); return 1 },
			Open: func(_ context.Context, m *Memory) (Model, error) {
				take(3 * time.Second)
				return &fake{claim: m.Claim(1, Needed), closed: func() {}}, nil
			},
		}))
		go func() { // loads from the second second to the fifth
			lease, err := r.Acquire(t.Context(), "a", nil)
			require.NoError(t, err)
			lease.Release()
		}()
		take(4 * time.Second)
		lease, err := r.Acquire(t.Context(), "a", func(w engine.Wait) { t.Errorf("told to wait: %s", w) })
		require.NoError(t, err)
		lease.Release()
		synctest.Wait()
	})
}

func TestAnIdleModelIsClosedAfterItsTTLAndNotWhileInUse(t *testing.T) {
	roomTest(t, Options{IdleTTL: time.Minute}, hundreds("a"), func(t *testing.T, b *bench) {
		l := b.use("a")
		time.Sleep(10 * time.Minute)
		require.Equal(t, engine.PhaseReady, b.phase("a"))
		l.Release()
		time.Sleep(50 * time.Second)
		b.use("a").Release()
		time.Sleep(50 * time.Second)
		require.Equal(t, engine.PhaseReady, b.phase("a"), "the second use counts")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		require.Equal(t, engine.PhaseCold, b.phase("a"))
		require.Zero(t, b.state("a").Evictions)
		b.use("a").Release()
		require.Len(t, b.loads(), 2)
	})
}

// A model whose requester gave up while it was loading is idle from then on.
func TestAModelThatNobodyWaitedForIsClosedAfterItsTTL(t *testing.T) {
	roomTest(t, Options{IdleTTL: time.Minute}, hundreds("a"), func(t *testing.T, b *bench) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		a := b.ask(ctx, "a")
		<-a.done
		require.ErrorIs(t, a.err, context.DeadlineExceeded)
		require.ErrorContains(t, a.err, "model a is being loaded")
		time.Sleep(time.Second)
		require.Equal(t, engine.PhaseReady, b.phase("a"), "the load goes on")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, engine.PhaseCold, b.phase("a"))
	})
}

func TestTheModelUsedLongestAgoMakesRoom(t *testing.T) {
	roomTest(t, Options{Budget: 250}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		b.use("a").Release()
		b.use("b").Release()
		b.use("a").Release()
		b.use("c").Release()
		require.Equal(t, []engine.ModelPhase{engine.PhaseReady, engine.PhaseCold, engine.PhaseReady}, []engine.ModelPhase{b.phase("a"), b.phase("b"), b.phase("c")})
		require.EqualValues(t, 1, b.state("b").Evictions)
		require.EqualValues(t, 200, b.Stat().Used)
	})
}

// Two models take turns in room for one, however many requests the first one gets.
func TestABusyModelDoesNotStarveAnother(t *testing.T) {
	roomTest(t, Options{Budget: 150}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for range 3 {
			clients.Go(func() {
				for ctx.Err() == nil {
					l, err := b.Acquire(ctx, "a", nil)
					if err != nil {
						require.ErrorIs(t, err, context.Canceled)
						return
					}
					time.Sleep(700 * time.Millisecond)
					l.Release()
				}
			})
		}
		time.Sleep(2 * time.Second)
		begin := time.Now()
		b.use("b").Release()
		require.Less(t, time.Since(begin), 10*time.Second)
		require.Greater(t, time.Since(begin), 2*time.Second, "a model that was just loaded serves for a while first")
		time.Sleep(20 * time.Second)
		require.Equal(t, engine.PhaseReady, b.phase("a"), "and the first one comes back")
		stop()
		clients.Wait()
	})
}

func TestModelsAreLoadedInTheOrderInWhichTheyWereAskedFor(t *testing.T) {
	roomTest(t, Options{Budget: 100}, map[string]int64{"a": 100, "big": 90, "small": 10, "tiny": 5}, func(t *testing.T, b *bench) {
		l := b.use("a")
		var all sync.WaitGroup
		for _, name := range []string{"small", "big", "tiny", "small"} {
			all.Go(func() { b.use(name).Release() })
			synctest.Wait()
		}
		waits := b.Stat().Waits
		require.Len(t, waits, 3)
		require.Equal(t, "model small waits for 10 bytes of memory, 0 bytes of 100 bytes are free; held by: a", waits[0].String())
		require.Equal(t, "model tiny waits for 5 bytes of memory, 0 bytes of 100 bytes are free; before it: big, small", waits[2].String())
		time.Sleep(time.Minute)
		l.Release()
		all.Wait()
		var loads []string
		for _, n := range b.noticed() {
			if n.Kind == NoticeLoad {
				loads = append(loads, n.Model)
			}
		}
		require.Equal(t, []string{"a", "small", "big", "tiny"}, loads)
	})
}

func TestAFailedLoadIsTriedAgainByTheNextRequest(t *testing.T) {
	roomTest(t, Options{}, hundreds("a"), func(t *testing.T, b *bench) {
		broken := errors.New("broken")
		b.breaks("a", broken)
		_, err := b.Acquire(t.Context(), "a", nil)
		require.ErrorIs(t, err, broken)
		require.Equal(t, engine.PhaseFailed, b.phase("a"))
		require.ErrorIs(t, b.state("a").Err, broken)
		require.Zero(t, b.Stat().Used)
		b.breaks("a", nil)
		b.use("a").Release()
	})
}

// A load that fails in the middle of the queue fails its own requests, and the next one has its turn.
func TestALoadThatFailsInTheQueueLetsTheNextOneGo(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		l := b.use("a")
		broken := errors.New("broken")
		b.breaks("b", broken)
		first, second, third := b.ask(t.Context(), "b"), b.ask(t.Context(), "b"), b.ask(t.Context(), "c")
		time.Sleep(10 * time.Second)
		l.Release()
		<-third.done
		require.NoError(t, third.err)
		for _, a := range []*asked{first, second} {
			<-a.done
			require.ErrorIs(t, a.err, broken)
		}
		third.lease.Release()
	})
}

func TestABrokenModelDoesNotCloseGoodOnesAgainAndAgain(t *testing.T) {
	roomTest(t, Options{Budget: 200}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		broken := errors.New("broken weights")
		b.breaks("c", broken)
		for range 5 {
			b.use("a").Release()
			b.use("b").Release()
			_, err := b.Acquire(t.Context(), "c", nil)
			require.ErrorIs(t, err, broken)
		}
		require.Equal(t, int64(1), b.state("a").Evictions+b.state("b").Evictions)
		var retry *engine.RetryError
		_, err := b.Acquire(t.Context(), "c", nil)
		require.ErrorAs(t, err, &retry)
		b.breaks("c", nil)
		time.Sleep(retry.After)
		b.use("c").Release()
	})
}

func TestCloseEndsLoadsAndWaitsAndLaterRequests(t *testing.T) {
	roomTest(t, Options{Budget: 200}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		l := b.use("b")
		loading, waiting := b.ask(t.Context(), "a"), b.ask(t.Context(), "c")
		require.NoError(t, b.Close())
		for _, a := range []*asked{loading, waiting} {
			<-a.done
			require.ErrorIs(t, a.err, engine.ErrHostClosed)
		}
		l.Release()
		_, err := b.Acquire(t.Context(), "b", nil)
		require.ErrorIs(t, err, engine.ErrHostClosed)
		require.ErrorIs(t, b.Add(Spec{Name: "d"}), engine.ErrHostClosed)
	})
}

func TestWhatCannotBeServedIsAnError(t *testing.T) {
	roomTest(t, Options{Budget: 50}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		_, err := b.Acquire(t.Context(), "a", nil)
		require.ErrorIs(t, err, engine.ErrBudget)
		var unknown *engine.UnknownModelError
		_, err = b.Acquire(t.Context(), "nobody", nil)
		require.ErrorAs(t, err, &unknown)
		require.Equal(t, []string{"a", "b"}, unknown.Known)
		require.ErrorContains(t, b.Add(Spec{Name: "a"}), "two models")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.Acquire(ended, "a", nil)
		require.ErrorIs(t, err, context.Canceled)
	})
}

// A model that was to make room for another one takes requests again when the other one is no longer wanted.
func TestDrainingIsUndone(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		l := b.use("a")
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := b.ask(ctx, "b")
		again := b.ask(t.Context(), "a")
		require.Equal(t, []engine.WaitReason{engine.WaitDrain}, again.told())
		require.Equal(t, "model a has to make room for b first", again.text())
		<-other.done
		require.ErrorIs(t, other.err, context.DeadlineExceeded)
		<-again.done
		require.NoError(t, again.err)
		again.lease.Release()
		b.use("a").Release()
		l.Release()
		require.Equal(t, engine.PhaseReady, b.phase("a"))
		require.Zero(t, b.state("a").Evictions)
		require.Equal(t, []NoticeKind{NoticeLoad, NoticeReady, NoticeWait, NoticeDrain, NoticeResume}, kinds(b.noticed()))
		// Of two that wait, one that gives up leaves the other its turn.
		l = b.use("a")
		short, cancelShort := context.WithTimeout(t.Context(), time.Minute)
		defer cancelShort()
		first, second := b.ask(short, "b"), b.ask(t.Context(), "c")
		time.Sleep(2 * time.Minute)
		<-first.done
		l.Release()
		<-second.done
		require.NoError(t, second.err)
		second.lease.Release()
	})
}

// It takes requests again, too, when the room came from elsewhere.
func TestDrainingIsUndoneWhenAnotherModelGivesEnough(t *testing.T) {
	roomTest(t, Options{Budget: 200}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		one, two := b.use("a"), b.use("b")
		time.Sleep(time.Minute)
		wanted := b.ask(t.Context(), "c")
		again := b.ask(t.Context(), "a") // a was used longest ago
		require.Equal(t, []engine.WaitReason{engine.WaitDrain}, again.told())
		two.Release()
		<-wanted.done
		<-again.done
		require.NoError(t, errors.Join(wanted.err, again.err))
		require.Equal(t, []engine.ModelPhase{engine.PhaseReady, engine.PhaseCold, engine.PhaseReady}, []engine.ModelPhase{b.phase("a"), b.phase("b"), b.phase("c")})
		for _, l := range []*Lease{one, again.lease, wanted.lease} {
			l.Release()
		}
	})
}

func kinds(notes []Notice) (out []NoticeKind) {
	for _, n := range notes {
		out = append(out, n.Kind)
	}
	return out
}

func TestAPinnedModelIsWaitedForAndBlocksNobodyElse(t *testing.T) {
	roomTest(t, Options{Budget: 100}, map[string]int64{"a": 60, "b": 60, "c": 40}, func(t *testing.T, b *bench) {
		require.NoError(t, b.Pin("a", true))
		b.use("a").Release()
		waits := b.ask(t.Context(), "b")
		require.Equal(t, []engine.WaitReason{engine.WaitPinned}, waits.told())
		require.Contains(t, waits.text(), "held by models that are not closed for others: a")
		b.use("c").Release()
		require.Equal(t, engine.PhaseReady, b.phase("a"))
		require.NoError(t, b.Pin("a", false))
		<-waits.done
		require.NoError(t, waits.err)
		waits.lease.Release()
		require.Error(t, b.Pin("nobody", true))
	})
}

func TestUnloadClosesOnlyWhatIsNotUsed(t *testing.T) {
	roomTest(t, Options{}, hundreds("a"), func(t *testing.T, b *bench) {
		l := b.use("a")
		done, err := b.Unload("a")
		require.NoError(t, err)
		require.False(t, done)
		l.Release()
		done, err = b.Unload("a")
		require.NoError(t, err)
		require.True(t, done)
		b.use("a").Release() // while it is being closed
		require.Len(t, b.loads(), 2)
		_, err = b.Unload("nobody")
		require.Error(t, err)
	})
}

// What a model was expected to need is not all that it may come to hold.
func TestMemoryThatAModelHasGrownByCounts(t *testing.T) {
	roomTest(t, Options{Budget: 250}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		l := b.use("a")
		b.use("b").Release()
		b.grow("a", 120)
		waits := b.ask(t.Context(), "c") // there would be room once b is closed, were it not for a's growth
		time.Sleep(time.Second / 2)
		require.Equal(t, engine.PhaseCold, b.phase("b"))
		require.EqualValues(t, 220, b.Stat().Used)
		select {
		case <-waits.done:
			t.Fatal("c was loaded beyond the budget")
		default:
		}
		b.grow("a", 0)
		<-waits.done // the next measurement sees it, with no other event
		require.NoError(t, waits.err)
		waits.lease.Release()
		// Growth beyond the budget closes what is idle.
		b.grow("a", 100)
		b.measure(t.Context())
		synctest.Wait()
		require.Equal(t, engine.PhaseCold, b.phase("c"))
		l.Release()
	})
}

func TestRandomNamesAreSorted(t *testing.T) {
	b := newBench(t, Options{}, hundreds("c", "a", "b"))
	require.True(t, slices.IsSorted(b.Names()))
	require.NoError(t, b.Close())
}

// A model whose files are slow to look at keeps the place in the queue that its request had.
func TestARequestsPlaceIsThatOfItsCall(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		looked := make(chan struct{})
		require.NoError(t, b.Add(Spec{
			Name: "slow", Size: func() int64 { <-looked; return 100 },
			Open: func(ctx context.Context, m *Memory) (Model, error) { return b.load(ctx, "a", m) },
		}))
		l := b.use("a")
		slow, other := b.ask(t.Context(), "slow"), b.ask(t.Context(), "b")
		close(looked)
		synctest.Wait()
		require.Equal(t, "slow", b.Stat().Waits[0].Model)
		time.Sleep(time.Minute)
		l.Release()
		<-slow.done
		slow.lease.Release()
		<-other.done
		other.lease.Release()
	})
}

// A folder whose files were replaced is loaded anew with what it has now.
func TestAModelCountsWithTheFilesThatAreLoaded(t *testing.T) {
	roomTest(t, Options{Budget: 300}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		b.use("a").Release()
		b.expect("a", 250)
		require.EqualValues(t, 100, b.state("a").Held)
		_, err := b.Unload("a")
		require.NoError(t, err)
		b.use("b").Release()
		b.use("a").Release()
		require.EqualValues(t, 250, b.Stat().Used)
		require.Equal(t, engine.PhaseCold, b.phase("b"))
	})
}

// Close while models load, close, drain and are waited for: everybody is told, and nothing is left.
func TestCloseInTheMiddleOfEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Budget: 200}, hundreds("a", "b", "c", "d"))
		slow := b.closesWait()
		l := b.use("a")
		b.use("b").Release()
		time.Sleep(time.Minute)
		waits := []*asked{b.ask(t.Context(), "c"), b.ask(t.Context(), "d"), b.ask(t.Context(), "a"), b.ask(t.Context(), "b")}
		require.Equal(t, engine.PhaseClosing, b.phase("b"))
		worker := b.memoryOf("a").Claim(10, Growth)
		closed := make(chan error, 1)
		go func() { closed <- b.Close() }()
		synctest.Wait()
		for i, a := range waits {
			if i == 2 && a.err == nil {
				a.lease.Release() // a had not begun to drain
				continue
			}
			require.ErrorIs(t, a.err, engine.ErrHostClosed)
		}
		require.ErrorIs(t, worker.Await(t.Context(), nil), engine.ErrHostClosed)
		l.Release()
		close(slow)
		require.NoError(t, <-closed)
		require.NoError(t, b.Close())
		require.Zero(t, b.Stat().Used)
		require.Zero(t, b.loaded())
	})
}
