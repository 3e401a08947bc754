//go:build unix

package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
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
	require.Eventually(t, func() bool { return m.counters.generated.Load() == before+int64(n) }, aWhile, time.Millisecond)
	return func() {
		cancel()
		group.Wait()
	}
}

func TestResetLoadsAnew(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Workers, o.Batch = 2, 4 })
	before := m.Stat().Workers
	release := hold(t, m, 1)
	require.NoError(t, m.Reset(t.Context()))
	var ticket uint64
	got, err := m.pool.acquire(t.Context(), "", &ticket)
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
	}, aWhile, 5*time.Millisecond)
	require.Zero(t, m.Stat().Crashes)
}

func TestCrashLoopOpensTheBreaker(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies in mid-stream")
	m.pool.mu.Lock()
	m.pool.infancy = time.Hour // or some of its deaths would count as others do, where it takes a second to die
	m.pool.mu.Unlock()
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
			// The first request's deaths were put down to it; a row of culprits says that it is not the requests.
			require.EqualValues(t, breakAfter+2, m.Stat().Crashes)
			require.Positive(t, m.Stat().RetryIn)
			// From here on no request costs a worker, or time.
			_, err = generateAll(t.Context(), m)
			require.ErrorIs(t, err, ErrCrashLoop)
			require.EqualValues(t, breakAfter+2, m.Stat().Crashes)
			require.Greater(t, time.Since(start), 600*time.Millisecond, "the starts were spaced")
			return
		}
	}
	t.Fatal("the breaker did not open")
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
				if fault == "counts and hangs once" {
					o.StallTimeout = stall
				}
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

// The folder was changed, and one of two workers dies. The other one has the old weights still: it must not answer beside the new one.
func TestWorkersWithOtherWeightsReplaceThoseBefore(t *testing.T) {
	noLeaks(t)
	weights := filepath.Join(t.TempDir(), "weights")
	change := func(to string) { require.NoError(t, os.WriteFile(weights, []byte(to), 0o600)) }
	change("old")
	o := Options{QuarantineDir: t.TempDir(), Workers: 2}
	m, err := load(t.Context(), "/nowhere", o, fakeCommand("waits", weightsVariable+"="+weights))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	classify := func() error {
		_, err := m.Classify(t.Context(), []string{"x"}, engine.ClassifyOptions{Labels: []string{"a"}, Prompt: engine.DefaultLabelPrompt})
		return err
	}
	require.NoError(t, classify())
	release := hold(t, m, 2) // one request on each
	change("new")
	before := m.Stat().Workers
	require.NoError(t, syscall.Kill(before[1].PID, syscall.SIGKILL))
	loaded := func() (out []string) {
		m.pool.mu.Lock()
		defer m.pool.mu.Unlock()
		for _, x := range m.pool.members {
			if x.state == memberReady {
				out = append(out, x.worker().info.Fingerprint)
			}
		}
		return out
	}
	require.Eventually(t, func() bool { return slices.Equal(loaded(), []string{"new", "new"}) }, aWhile, time.Millisecond)
	require.True(t, running(before[0].PID), "its request ends on the old weights")
	for range 4 {
		require.NoError(t, classify())
	}
	release()
	require.Eventually(t, func() bool { return len(m.Stat().Workers) == 2 && !running(before[0].PID) }, aWhile, time.Millisecond)
	require.EqualValues(t, 1, m.Stat().Crashes)
	// A worker that is replaced without a change of the weights replaces no others.
	require.NoError(t, syscall.Kill(m.Stat().Workers[1].PID, syscall.SIGKILL))
	require.Eventually(t, func() bool { return m.Stat().Starts == 5 && len(loaded()) == 2 }, aWhile, time.Millisecond)
	require.Equal(t, 1, m.Stat().Workers[0].Generation)
}

// A worker may die before a request that has its slot is sent, and before it ever said what it computes.
func TestARequestThatWasNotSentIsNoSuspect(t *testing.T) {
	w := &worker{conn: newConn(io.Discard), underWay: map[*job]uint64{}}
	w.conn.fail(errFakeDeath)
	_, err := w.conn.begin(&encodeRequest{head: head{Type: "encode"}}, false)
	require.ErrorIs(t, err, errFakeDeath)
	unsent, sent := &job{key: keyOf(&encodeRequest{Text: "x"})}, &job{key: keyOf(&encodeRequest{Text: "y"})}
	w.enter(sent, 1)
	suspected, _, err := w.suspect(unsent)
	require.NoError(t, err)
	require.False(t, suspected)
	suspected, alone, err := w.suspect(sent)
	require.NoError(t, err)
	require.True(t, suspected)
	require.True(t, alone)
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
	once := filepath.Join(t.TempDir(), "once")
	// Where two come before the first is read, only the later one is told; so the worker waits for each to be read.
	o := Options{Events: func(e engine.Event) {
		events = append(events, e)
		if err := os.WriteFile(told(once, e.Done), nil, 0o600); err != nil {
			t.Error(err)
		}
	}}
	m, err := load(t.Context(), "/nowhere", o, fakeCommand("tells its load", onceVariable+"="+once))
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.Len(t, events, 5)
	for i, e := range events {
		require.Equal(t, engine.Event{Kind: engine.EventLoad, Done: int64(i), Total: 5}, e)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"Workers": {Workers: -1}, "MinWorkers": {Workers: 2, MinWorkers: 3}, "Batch": {Batch: 5000},
		"IdleTTL": {IdleTTL: -1}, "StallTimeout": {StallTimeout: -1}, "PromptCache": {PromptCache: -1},
	} {
		_, err := load(t.Context(), "/nowhere", o, fakeCommand("healthy"))
		var option *engine.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, name, option.Option)
	}
}
