package admission

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

func (c *Claim) granted() bool { return c.isDone() && c.err == nil }

// memoryOf is the memory of a loaded model.
func (b *bench) memoryOf(name string) *Memory { return b.state(name).Model.(*fake).memory }

func TestAFurtherWorkerClosesOnlyIdleModels(t *testing.T) {
	roomTest(t, Options{Budget: 250}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		a, l := b.use("a"), b.use("b")
		time.Sleep(time.Minute)
		more := b.memoryOf("a").Claim(100, Growth)
		time.Sleep(time.Minute)
		require.False(t, more.granted())
		b.use("b").Release()
		require.Zero(t, b.state("b").Evictions, "b has requests and takes new ones")
		l.Release()
		synctest.Wait()
		require.True(t, more.granted())
		require.Equal(t, engine.PhaseCold, b.phase("b"))
		// It is no reason to keep b out.
		again := b.ask(t.Context(), "b")
		more.Leaving()
		more.Release()
		<-again.done
		require.NoError(t, again.err)
		again.lease.Release()
		a.Release()
	})
}

func TestSmallCallsTakeOnlyWhatNobodyElseWants(t *testing.T) {
	roomTest(t, Options{Budget: 220}, hundreds("a", "b", "c"), func(t *testing.T, b *bench) {
		b.use("b").Release()
		b.use("a").Release()
		small := b.memoryOf("a").Claim(50, Spare)
		time.Sleep(time.Minute)
		require.False(t, small.granted())
		require.Equal(t, engine.PhaseReady, b.phase("b"), "no model is closed for it")
		small.Raise(Growth)
		synctest.Wait()
		require.True(t, small.granted())
		require.Equal(t, engine.PhaseCold, b.phase("b"))
		small.Release()
	})
}

// A worker that takes the place of one that died comes before what asked later, so that requests under way do not wait for a load.
func TestAWorkerThatDiedIsReplacedBeforeOthersGetItsMemory(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		l := b.use("a")
		f := b.state("a").Model.(*fake)
		time.Sleep(time.Minute)
		other := b.ask(t.Context(), "b")
		f.holds().Lost()
		again := f.memory.Claim(100, Needed)
		f.holds().Release()
		synctest.Wait()
		require.True(t, again.granted())
		f.becomes(again)
		require.Equal(t, engine.PhaseCold, b.phase("b"))
		// One that ended because it had nothing to do is not replaced at others' cost.
		f.holds().Leaving()
		third := f.memory.Claim(100, Needed)
		f.holds().Release()
		synctest.Wait()
		require.False(t, third.granted())
		f.becomes(third)
		l.Release()
		<-other.done
		require.NoError(t, other.err)
		other.lease.Release()
	})
}

// Models that need several workers to begin with get the memory for all or for none.
func TestALoadGetsAllItsMemoryAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Budget: 300})
		one, two := r.Join("one"), r.Join("two")
		require.NoError(t, one.BeginLoad(t.Context(), 200, nil))
		second := make(chan error, 1)
		go func() { second <- two.BeginLoad(t.Context(), 200, nil) }()
		synctest.Wait()
		var workers []*Claim
		for range 2 {
			c := one.Claim(100, Needed)
			require.True(t, c.granted())
			workers = append(workers, c)
		}
		require.EqualValues(t, 200, r.Stat().Used)
		one.EndLoad()
		require.EqualValues(t, 200, one.Held())
		require.Empty(t, second)
		for _, c := range workers {
			c.Release()
			c.Release()
		}
		one.Leave()
		require.NoError(t, <-second)
		require.EqualValues(t, 200, two.Held())
		two.EndLoad() // nothing was claimed
		require.Zero(t, r.Stat().Used)
		two.Leave()
		require.ErrorIs(t, r.Join("big").BeginLoad(t.Context(), 301, nil), engine.ErrBudget)
		require.NoError(t, r.Close())
		require.ErrorIs(t, r.Join("late").BeginLoad(t.Context(), 1, nil), engine.ErrHostClosed)
	})
}

// What a try of a load gives back is for the next try, also if that one has asked before.
func TestATryOfALoadLeavesItsMemoryToTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Budget: 250})
		m := r.Join("m")
		require.NoError(t, m.BeginLoad(t.Context(), 200, nil))
		one, two := m.Claim(100, Needed), m.Claim(100, Needed)
		third := m.Claim(100, Needed)
		require.True(t, one.granted())
		require.True(t, two.granted())
		require.False(t, third.granted())
		one.Release()
		require.True(t, third.granted())
		m.EndLoad()
		require.EqualValues(t, 200, r.Stat().Used)
		two.Release()
		third.Release()
		require.Zero(t, r.Stat().Used)
		m.Leave()
		require.NoError(t, r.Close())
	})
}

// A model that is loaded anew beside its old self waits for what that gives back, and closes no other model for it.
func TestALoadWaitsForMemoryThatIsBeingReleased(t *testing.T) {
	roomTest(t, Options{Budget: 200}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		b.use("b").Release()
		l := b.use("a")
		f := b.state("a").Model.(*fake)
		f.holds().Leaving()
		anew := f.memory.Claim(100, Needed)
		time.Sleep(time.Minute)
		require.False(t, anew.granted())
		require.Equal(t, engine.PhaseReady, b.phase("b"))
		f.holds().Release()
		require.True(t, anew.granted())
		f.becomes(anew)
		l.Release()
	})
}

func TestAClaimWhoseContextEndsIsWithdrawn(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a"), func(t *testing.T, b *bench) {
		own := b.Join("own")
		held := own.Claim(80, Needed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var waits []string
		err := b.Join("other").Claim(30, Needed).Await(ctx, func(w engine.Wait) { waits = append(waits, w.String()) })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{"model other waits for 30 bytes of memory, 20 bytes of 100 bytes are free; held by models that are not closed for others: own"}, waits)
		var wait *engine.WaitError
		require.True(t, errors.As(err, &wait))
		require.Equal(t, engine.WaitPinned, wait.Wait.Reason)
		require.Empty(t, b.Stat().Waits)
		held.Release()
		b.use("a").Release()
	})
}

// A worker that has nothing to do is asked for before a model is closed, once, and may have become busy meanwhile.
func TestOfferedMemoryIsAskedForBeforeModelsAreClosed(t *testing.T) {
	roomTest(t, Options{Budget: 300}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		b.use("b").Release()
		own := b.Join("own")
		one, two := own.Claim(100, Needed), own.Claim(100, Growth)
		recalled := 0
		one.Offer(func() { recalled++; one.Offer(nil) }) // busy again
		two.Offer(func() { recalled += 10; two.Leaving() })
		wants := b.ask(t.Context(), "a")
		require.Equal(t, 11, recalled)
		require.Equal(t, engine.PhaseReady, b.phase("b"))
		require.Equal(t, []engine.WaitReason{engine.WaitMemory}, wants.told())
		require.Contains(t, wants.text(), "own")
		two.Release()
		<-wants.done
		require.NoError(t, wants.err)
		wants.lease.Release()
		require.Equal(t, engine.PhaseReady, b.phase("b"))
		one.Offer(func() { t.Error("nobody needs it") })
		one.Release()
		own.Leave()
	})
}

// A func that is told what something waits for may panic, or end its goroutine: nothing stays behind.
func TestWhoIsToldOfAWaitMayLeave(t *testing.T) {
	for name, leave := range map[string]func(engine.Wait){
		"panic":  func(engine.Wait) { panic("told") },
		"Goexit": func(engine.Wait) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			roomTest(t, Options{Budget: 100, IdleTTL: time.Minute}, hundreds("a", "b"), func(t *testing.T, b *bench) {
				gone := func(f func()) {
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { _ = recover() }()
						f()
					}()
					<-done
				}
				gone(func() { _, _ = b.Acquire(t.Context(), "a", leave) })
				synctest.Wait()
				require.Zero(t, b.state("a").Waiting)
				own := b.use("a")
				gone(func() { _, _ = b.Acquire(t.Context(), "b", leave) })
				gone(func() { _ = b.Join("late").Claim(50, Needed).Await(t.Context(), leave) })
				require.Empty(t, b.Stat().Waits)
				own.Release()
				time.Sleep(2 * time.Minute)
				require.Equal(t, engine.PhaseCold, b.phase("a"), "nobody holds it")
				require.Zero(t, b.Stat().Used)
			})
		})
	}
}

// So may one that is told how a load goes: the load is over then.
func TestALoadWhoseGoroutineEndsHasFailed(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a"), func(t *testing.T, b *bench) {
		require.NoError(t, b.Add(Spec{Name: "odd", Size: func() int64 { return 60 }, Open: func(ctx context.Context, m *Memory) (Model, error) {
			c := m.Claim(60, Needed)
			defer c.Release()
			runtime.Goexit()
			return nil, nil
		}}))
		_, err := b.Acquire(t.Context(), "odd", nil)
		require.ErrorIs(t, err, errLoadLeft)
		b.use("a").Release()
	})
}
