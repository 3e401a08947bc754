package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// hold keeps n requests under way until the returned func is called. The fake worker "waits" answers a
// request when it is cancelled, and not before.
func hold(t *testing.T, m *Model, n int) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	before := m.counters.generated.Load()
	for range n {
		group.Go(func() { _, _ = drain(ctx, m, engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()) })
	}
	require.Eventually(t, func() bool { return m.counters.generated.Load() == before+int64(n) }, 5*time.Second, time.Millisecond)
	return func() {
		cancel()
		group.Wait()
	}
}

func TestPoolRefusesWhatTheQueueCannotHold(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Batch, o.Queue = 2, 3 })
	release := hold(t, m, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if _, err := drain(ctx, m, engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return m.Stat().Waiting == 3 }, time.Second, time.Millisecond)
	_, err := generateAll(t.Context(), m)
	require.ErrorIs(t, err, ErrBusy)
	var busy *BusyError
	require.ErrorAs(t, err, &busy)
	require.Equal(t, BusyError{Waiting: 3, Workers: 1}, *busy)
	cancel()
	group.Wait()
	s := m.Stat()
	require.Zero(t, s.Waiting)
	require.EqualValues(t, 1, s.Refused)
	require.EqualValues(t, 3, s.Abandoned)
	release()
}

func TestPoolServesInOrderAndGrowsOnlyWhenFull(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.Batch, o.IdleTTL, o.MinWorkers = 3, 2, time.Hour, 1 })
	require.Len(t, m.Stat().Workers, 1)
	one := hold(t, m, 2)
	require.Len(t, m.Stat().Workers, 1, "there was room")
	two := hold(t, m, 3)
	require.Len(t, m.Stat().Workers, 3)
	three := hold(t, m, 1)
	for _, w := range m.Stat().Workers {
		require.Equal(t, 2, w.Active, "the least loaded takes the next")
	}
	// All are full: these wait, and get their turn in the order in which they came.
	var mu sync.Mutex
	var order []int
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			got, err := m.pool.acquire(t.Context(), "", false)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			m.pool.release(got, true)
		})
		require.Eventually(t, func() bool { return m.Stat().Waiting == i+1 }, time.Second, time.Millisecond)
	}
	// One place, through which all go.
	m.pool.mu.Lock()
	first := m.pool.members[0]
	m.pool.mu.Unlock()
	m.pool.release(first, true)
	group.Wait()
	first.worker.active.Add(1) // what was released above is under way still
	require.Equal(t, []int{0, 1, 2, 3}, order)
	one()
	two()
	three()
}

func TestPoolEndsIdleWorkers(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.Batch, o.IdleTTL = 2, 1, 50*time.Millisecond })
	require.Len(t, m.Stat().Workers, 1)
	hold(t, m, 2)()
	require.Eventually(t, func() bool { return len(m.Stat().Workers) == 0 }, 5*time.Second, 5*time.Millisecond)
	require.Zero(t, m.Stat().Crashes)
	hold(t, m, 1)() // the next request starts one again
	require.EqualValues(t, 3, m.Stat().Starts)
}

func TestPoolKeepsMinWorkers(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.MinWorkers, o.Batch, o.IdleTTL = 3, 1, 1, 30*time.Millisecond })
	hold(t, m, 3)()
	require.Eventually(t, func() bool { return len(m.Stat().Workers) == 1 }, 5*time.Second, 5*time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	require.Len(t, m.Stat().Workers, 1)
	require.EqualValues(t, 3, m.Stat().Starts)
}

func TestPoolKeepsASessionOnItsWorker(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.Batch = 3, 4 })
	where := map[string]uint64{}
	for i := range 300 {
		session := fmt.Sprint("chat ", i%30)
		got, err := m.pool.acquire(t.Context(), session, false)
		require.NoError(t, err)
		if home, ok := where[session]; ok {
			require.Equal(t, home, got.id)
		}
		where[session] = got.id
		m.pool.release(got, true)
	}
	count := map[uint64]int{}
	for _, id := range where {
		count[id]++
	}
	require.Len(t, count, 3, "sessions spread over the workers")
	// A full home is no reason to wait.
	var all []*member
	for range 5 {
		got, err := m.pool.acquire(t.Context(), "chat 1", false)
		require.NoError(t, err)
		all = append(all, got)
	}
	require.Equal(t, where["chat 1"], all[3].id)
	require.NotEqual(t, where["chat 1"], all[4].id)
	for _, got := range all {
		m.pool.release(got, true)
	}
}

func TestPoolGivesAnExclusiveRequestAWorkerOfItsOwn(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Batch = 8 })
	release := hold(t, m, 2)
	alone := make(chan *member)
	go func() {
		got, err := m.pool.acquire(t.Context(), "", true)
		if err != nil {
			t.Error(err)
		}
		alone <- got
	}()
	require.Eventually(t, func() bool { return m.Stat().Waiting == 1 }, time.Second, time.Millisecond)
	// What comes later does not push in front of it, or it would wait for ever.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := m.pool.acquire(ctx, "", false)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	release()
	got := <-alone
	_, err = m.pool.acquire(ctx, "", false)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	m.pool.share(got)
	other, err := m.pool.acquire(t.Context(), "", false)
	require.NoError(t, err)
	m.pool.release(other, true)
	m.pool.release(got, true)
}

func TestPoolForgetsAnExclusiveRequestThatGaveUp(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Batch = 8 })
	release := hold(t, m, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := m.pool.acquire(ctx, "", true)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	hold(t, m, 1)() // the worker takes company again
	release()
}

func TestPoolForgetsAnExclusiveRequestThatItRefused(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.Batch, o.Queue = 2, 8, 1 })
	release := hold(t, m, 2)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := m.pool.acquire(ctx, "", true) // reserves one worker
		first <- err
	}()
	require.Eventually(t, func() bool { return m.Stat().Waiting == 1 }, time.Second, time.Millisecond)
	_, err := m.pool.acquire(t.Context(), "", true)
	require.ErrorIs(t, err, ErrBusy)
	got, err := m.pool.acquire(t.Context(), "", false) // the other worker takes company
	require.NoError(t, err)
	m.pool.release(got, true)
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	release()
}

func TestResetLoadsAnew(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.Batch = 2, 4 })
	before := m.Stat().Workers
	release := hold(t, m, 1)
	require.NoError(t, m.Reset(t.Context()))
	got, err := m.pool.acquire(t.Context(), "", false)
	require.NoError(t, err)
	require.Equal(t, 1, got.generation)
	m.pool.release(got, true)
	release() // the stream on the old worker went on until here
	require.Eventually(t, func() bool {
		now := m.Stat().Workers
		for _, w := range now {
			if w.Generation != 1 || w.State != "ready" || w.PID == before[0].PID || w.PID == before[1].PID {
				return false
			}
		}
		return len(now) == 2
	}, 5*time.Second, 5*time.Millisecond)
	require.Zero(t, m.Stat().Crashes)
}

func TestCrashLoopOpensTheBreaker(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies in mid-stream")
	start := time.Now()
	for i := range 20 {
		_, err := drain(t.Context(), m, engine.Prompt{Text: fmt.Sprint("request ", i)}, engine.DefaultGenerateOptions())
		require.Error(t, err)
		if errors.Is(err, ErrCrashLoop) {
			var loop *CrashLoopError
			require.ErrorAs(t, err, &loop)
			require.Equal(t, breakAfter, loop.Crashes)
			require.ErrorIs(t, err, ErrWorkerStopped)
			require.ErrorContains(t, err, "out of memory", "what happened to the last one")
			require.EqualValues(t, breakAfter, m.Stat().Crashes)
			require.Positive(t, m.Stat().RetryIn)
			// From here on no request costs a worker, or time.
			_, err = generateAll(t.Context(), m)
			require.ErrorIs(t, err, ErrCrashLoop)
			require.EqualValues(t, breakAfter, m.Stat().Crashes)
			require.Greater(t, time.Since(start), 600*time.Millisecond, "the starts were spaced")
			return
		}
	}
	t.Fatal("the breaker did not open")
}

// The wake-up for a start that has to wait is not put off by the one for idle workers, which comes later.
func TestStartsThatWaitAreNotForgotten(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.IdleTTL, o.Batch = 2, time.Hour, 1 })
	release := hold(t, m, 1)
	m.pool.mu.Lock()
	m.pool.crashes.until = time.Now().Add(200 * time.Millisecond)
	m.pool.mu.Unlock()
	got := make(chan error, 1)
	go func() {
		second, err := m.pool.acquire(t.Context(), "", false) // needs a second worker
		if err == nil {
			m.pool.release(second, true)
		}
		got <- err
	}()
	require.Eventually(t, func() bool { return m.Stat().Waiting == 1 }, time.Second, time.Millisecond)
	m.pool.mu.Lock()
	m.pool.wake(time.Hour)
	m.pool.mu.Unlock()
	select {
	case err := <-got:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("the second worker was not started")
	}
	release()
}

func TestBackoffGrowsAndIsForgotten(t *testing.T) {
	var b backoff
	now := time.Now()
	var waits []time.Duration
	for range breakAfter + 1 {
		b.crashed(now, errors.New("x"))
		waits = append(waits, b.wait(now))
	}
	require.Zero(t, waits[0])
	for i := 1; i < breakAfter-1; i++ {
		require.GreaterOrEqual(t, waits[i], backoffFirst<<(i-1))
		require.Less(t, waits[i], 2*backoffFirst<<(i-1))
	}
	require.Equal(t, breakPeriod, waits[breakAfter-1])
	require.True(t, b.broken())
	require.Zero(t, b.wait(now.Add(breakPeriod)))
	b.reset()
	require.False(t, b.broken())
}

func TestStreamGoesOnOverADeathAndAHang(t *testing.T) {
	for _, fault := range []string{"counts and dies once", "counts and hangs once"} {
		t.Run(fault, func(t *testing.T) {
			noLeaks(t)
			var restarts []engine.Event
			m := loadFake(t, fault, func(o *Options) {
				o.StallTimeout = time.Second
				o.Events = func(e engine.Event) {
					if e.Kind == engine.EventRestart {
						restarts = append(restarts, e)
					}
				}
			})
			o := engine.DefaultGenerateOptions()
			var gaps []engine.Event
			o.Events = func(e engine.Event) { gaps = append(gaps, e) }
			text := ""
			for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "x"}, o) {
				require.NoError(t, err)
				text += tok.Text
			}
			require.Equal(t, "0 1 2 3 4 5 6 7 8 9 ", text)
			require.Len(t, gaps, 1)
			require.Equal(t, engine.EventGap, gaps[0].Kind)
			require.EqualValues(t, 4, gaps[0].Done)
			if strings.Contains(fault, "hangs") {
				require.ErrorIs(t, gaps[0].Err, ErrHung)
			}
			require.NoError(t, m.Close())
			require.Len(t, restarts, 1)
			require.ErrorIs(t, restarts[0].Err, ErrWorkerStopped)
		})
	}
}

func TestCallsSurviveADeath(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies at classify once")
	got, err := m.Classify(t.Context(), []string{"x"}, engine.ClassifyOptions{Labels: []string{"a"}, Prompt: engine.DefaultLabelPrompt})
	require.NoError(t, err)
	require.Equal(t, "a", got[0].Label)
	require.EqualValues(t, 1, m.Stat().Resumed)
}

func TestLoadProgressIsReported(t *testing.T) {
	noLeaks(t)
	var events []engine.Event
	m := loadFake(t, "loads for long", func(o *Options) { o.Events = func(e engine.Event) { events = append(events, e) } })
	require.NoError(t, m.Close())
	require.Greater(t, len(events), 3)
	for i, e := range events {
		require.Equal(t, engine.EventLoad, e.Kind)
		require.EqualValues(t, 30, e.Total)
		if i > 0 {
			require.Greater(t, e.Done, events[i-1].Done)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"Workers": {Workers: -1}, "MinWorkers": {Workers: 2, MinWorkers: 3}, "Batch": {Batch: 5000}, "Queue": {Queue: -1},
		"IdleTTL": {IdleTTL: -1}, "StallTimeout": {StallTimeout: -1}, "PromptCache": {PromptCache: -1},
	} {
		_, err := load(t.Context(), "/nowhere", o, fakeCommand("healthy"))
		var option *engine.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, name, option.Option)
	}
}
