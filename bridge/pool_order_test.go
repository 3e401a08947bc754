package bridge

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// What the pool does must not depend on which of two goroutines comes first.

// unnoticed is an instance that has ended, while the goroutine that watches it has not run yet.
type unnoticed struct {
	*fakeInstance
	ended chan struct{} // closed when it has ended
}

func (u *unnoticed) done() <-chan struct{} {
	select {
	case <-u.ended:
		return u.ended
	default:
		return u.gone // what is watched
	}
}

// A request may learn of its worker's death, and why that is no reason to start no more workers, before the pool has heard of the death.
func TestADeathIsCountedBeforeItIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(limits{max: 1, rows: 1})
		defer b.close()
		start, ended := b.start, make(chan struct{})
		b.start = func(ctx context.Context, c *admission.Claim) (instance, error) {
			i, err := start(ctx, c)
			if f, ok := i.(*fakeInstance); ok {
				return &unnoticed{f, ended}, nil
			}
			return i, err
		}
		j := &job{model: &Model{pool: b.pool, quarantine: &quarantine{}}, key: keyOf(&bareRequest{}), made: func() []int32 { return nil }}
		m, err := b.acquire(t.Context(), "", &j.ticket)
		require.NoError(t, err)
		synctest.Wait()
		key, err := j.key()
		require.NoError(t, err)
		// An equal request was found guilty a moment ago.
		guilty := &QuarantineError{Err: ErrWorkerStopped}
		j.model.quarantine.held = map[requestKey]*heldRequest{key: {err: guilty, until: time.Now().Add(time.Hour), absolves: true}}
		w := &worker{conn: newConn(nil), underWay: map[*job]uint64{j: 1}}
		w.conn.fail(errFakeDeath)
		close(ended)
		_, err = j.afterDeath(m, w, errFakeDeath)
		require.Equal(t, guilty, err)
		b.release(m, false)
		m.instance.(*unnoticed).end(errFakeDeath)
		synctest.Wait()
		require.EqualValues(t, 1, b.stats.crashed)
		require.Zero(t, b.crashes.crashes+b.failures.crashes, "what is explained does not count")
	})
}

// Who asks while requests wait whose worker died waits behind them: the queue's length is of those that no worker had yet.
func TestRequestsWhoseWorkerDiedLeaveTheQueueToOthers(t *testing.T) {
	poolTest(t, limits{max: 1, rows: 4, queue: 1}, func(t *testing.T, b *bench) {
		var group sync.WaitGroup
		tickets, members := make([]uint64, 4), make([]*member, 4)
		for i := range tickets {
			m, err := b.acquire(t.Context(), "", &tickets[i])
			require.NoError(t, err)
			members[i] = m
		}
		members[0].instance.(*fakeInstance).end(errFakeDeath)
		synctest.Wait()
		for i, m := range members {
			group.Go(func() {
				next, err := b.acquire(t.Context(), "", &tickets[i])
				b.release(m, false)
				if err != nil {
					t.Error(err)
					return
				}
				b.release(next, true)
			})
		}
		synctest.Wait()
		require.Equal(t, 4, b.waiting())
		group.Go(func() { b.release(b.take(t, ""), true) })
		synctest.Wait()
		require.Equal(t, 5, b.waiting())
		var busy *BusyError
		_, err := b.acquire(t.Context(), "", new(uint64))
		require.ErrorAs(t, err, &busy)
		require.Equal(t, 1, busy.Waiting)
		group.Wait()
		require.EqualValues(t, 5, b.stats.served)
		require.EqualValues(t, 1, b.stats.refused)
		ctx, cancel := context.WithCancel(t.Context())
		held := []*member{b.take(t, ""), b.take(t, ""), b.take(t, ""), b.take(t, "")}
		for range 3 { // places come back however a request leaves the queue
			group.Go(func() { _, _ = b.acquire(ctx, "", new(uint64)) })
			synctest.Wait()
			require.Equal(t, 1, b.waiting())
			cancel()
			group.Wait()
			ctx, cancel = context.WithCancel(t.Context())
		}
		cancel()
		for _, m := range held {
			b.release(m, true)
		}
	})
}

// A request whose worker died keeps the next one from ending, as it keeps one on which it has a slot: where its reader stands still, workers
// are not started and ended in turn.
func TestAWorkerForARequestWhoseWorkerDiedDoesNotEndBeforeIt(t *testing.T) {
	poolTest(t, limits{max: 2, rows: 1, idle: time.Minute}, func(t *testing.T, b *bench) {
		m := b.take(t, "")
		m.instance.(*fakeInstance).end(errFakeDeath)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"ready"}, b.states())
		require.EqualValues(t, 2, b.stats.starts)
		b.release(m, false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, b.states())
		require.EqualValues(t, 2, b.stats.starts)
	})
}

// A reset tells how the start ended that it caused, however soon that was.
func TestAResetTellsOfAStartThatFailsAtOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8)) // the start is likely to be over first
	for range 2000 {
		r := admission.New(admission.Options{})
		memory := r.Join("bench")
		var starts atomic.Int32
		p := newPool(limits{min: 1, max: 1, rows: 1}, func(u admission.Urgency) *admission.Claim { return memory.Claim(1, u) }, func(context.Context, *admission.Claim) (instance, error) {
			if starts.Add(1) == 2 {
				return nil, errFakeDeath
			}
			return &fakeInstance{gone: make(chan struct{})}, nil
		})
		require.NoError(t, p.ensure(t.Context(), 1))
		require.ErrorIs(t, p.reset(t.Context()), errFakeDeath)
		p.close()
	}
}
