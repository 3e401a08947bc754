//go:build unix

package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Whatever the code around a request does, its slot comes back, and the worker is told.

func TestAPanicOfTheReaderGivesItsSlotBack(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Batch = 1 })
	ways := map[string]func(){
		"panic": func() {
			defer func() { _ = recover() }()
			for range m.Generate(t.Context(), engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()) {
				panic("in the loop's body")
			}
		},
		"Goexit": func() {
			for range m.Generate(t.Context(), engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()) {
				runtime.Goexit()
			}
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			var group sync.WaitGroup
			group.Go(way)
			group.Wait()
			require.Zero(t, m.counters.active.Load())
			require.Zero(t, m.Stat().Workers[0].Active)
			hold(t, m, 1)()
		})
	}
	require.Eventually(t, func() bool { return m.Stat().Stops.Count >= 2 }, aWhile, time.Millisecond, "the worker was told")
}

// A reader that asks for no more tokens does not see that its context has ended, and is told when it asks. Its slot does not wait for that.
func TestAReaderThatStandsStillGivesItsSlotBackWhenItsContextEnds(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.Batch = 1 })
	begin := func() (ctx context.Context, cancel context.CancelFunc, next func() (engine.Token, error, bool), stop func()) {
		ctx, cancel = context.WithCancel(t.Context())
		next, stop = iter.Pull2(m.Generate(ctx, engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()))
		_, err, _ := next()
		require.NoError(t, err)
		return ctx, cancel, next, stop
	}
	_, cancel, next, stop := begin()
	defer stop()
	cancel()
	hold(t, m, 1)() // the slot is another one's
	require.Eventually(t, func() bool { return m.Stat().Stops.Count == 2 }, aWhile, time.Millisecond, "the worker was told, once for each")
	require.Zero(t, m.Stat().Workers[0].Active)
	_, err, _ := next()
	require.ErrorIs(t, err, context.Canceled)
	stop()
	require.Zero(t, m.Stat().Workers[0].Active, "it is not given back twice")

	// The reader is told of its context, also where the worker has ended since.
	for range 8 {
		_, cancel, next, stop := begin()
		cancel()
		require.NoError(t, m.Reset(t.Context()))
		_, err, _ := next()
		require.ErrorIs(t, err, context.Canceled)
		stop()
	}

	// Nor does Shutdown.
	_, cancel, _, stop = begin()
	defer stop()
	cancel()
	require.NoError(t, m.Shutdown(t.Context()))
}

// The same where the worker died meanwhile, whose memory waits for the one in its place.
func TestAReaderThatStandsStillDoesNotKeepADeadWorkersPlace(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits", func(o *Options) { o.MinWorkers, o.IdleTTL = -1, time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next, stop := iter.Pull2(m.Generate(ctx, engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()))
	defer stop()
	_, err, _ := next()
	require.NoError(t, err)
	m.pool.mu.Lock()
	m.pool.limits.idle = time.Millisecond // from here on; the worker might have ended before the request came
	m.pool.mu.Unlock()
	require.NoError(t, syscall.Kill(pid(m), syscall.SIGKILL))
	require.Eventually(t, func() bool { return m.Stat().Starts == 2 }, aWhile, time.Millisecond, "one is started for the reader")
	cancel()
	require.Eventually(t, func() bool { return len(m.Stat().Workers) == 0 }, aWhile, time.Millisecond)
	for err == nil {
		_, err, _ = next()
	}
	require.ErrorIs(t, err, context.Canceled)
}

func TestAPanicInAnEventGivesTheSlotBack(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "counts and dies once", func(o *Options) { o.Batch = 1 })
	func() {
		defer func() { require.Equal(t, "in an event", recover()) }()
		o := engine.DefaultGenerateOptions()
		o.Events = func(e engine.Event) { panic("in an event") }
		_, _ = drain(t.Context(), m, engine.Prompt{Text: "x"}, o)
	}()
	require.Zero(t, m.counters.active.Load())
	text, err := generateAll(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "0 1 2 3 4 5 6 7 8 9 ", text)
}

// A stopped worker empties no pipe; a long request does not fit into one.
func TestDeadlinesHoldForLongRequestsToAStoppedWorker(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "default", func(o *Options) { o.StallTimeout = time.Minute })
	require.NoError(t, syscall.Kill(pid(m), syscall.SIGSTOP))
	for _, size := range []int{1000, 300_000, 3_000_000} {
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			start := time.Now()
			_, err := drain(ctx, m, engine.Prompt{Text: strings.Repeat("x", size)}, engine.DefaultGenerateOptions())
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(start), 30*time.Second, "half of StallTimeout")
		}
	}
	w := m.pool.members[0].worker()
	w.conn.mu.Lock()
	queued := 0
	for _, o := range w.conn.queue {
		queued += len(o.frame)
	}
	w.conn.mu.Unlock()
	require.Less(t, queued, 10_000, "what was given up is not kept")
	require.NoError(t, syscall.Kill(pid(m), syscall.SIGCONT))
	text, err := generateAll(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "one two", text)
}

func TestEqualKillingRequestsEndTwoWorkersAndFailNoOtherRequest(t *testing.T) {
	for _, workers := range []int{1, 4} {
		noLeaks(t)
		o := Options{QuarantineDir: t.TempDir(), Workers: workers}
		if workers > 1 {
			o.Batch = 1
		}
		// Two deaths find it guilty, and whichever worker has it at that moment dies, too. Another one that comes up before the second death was
		// looked into would, too; here none does.
		deaths, once := max(2, workers), filepath.Join(t.TempDir(), "once")
		m, err := load(t.Context(), "/nowhere", o, fakeCommand("dies of poison", onceVariable+"="+once, beginnersVariable+"="+strconv.Itoa(deaths)))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Close()) })
		rememberDeaths(m)
		var group sync.WaitGroup
		var quarantined atomic.Int64
		for range 10 {
			group.Go(func() {
				_, err := drain(t.Context(), m, engine.Prompt{Text: "poison"}, engine.DefaultGenerateOptions())
				if errors.Is(err, ErrQuarantined) {
					quarantined.Add(1)
				} else {
					t.Errorf("%d workers: %v", workers, err)
				}
			})
		}
		require.Eventually(t, func() bool { return m.Stat().Quarantined == 1 && m.Stat().Crashes == int64(deaths) }, aWhile, time.Millisecond)
		require.NoError(t, os.WriteFile(later(once), nil, 0o600))
		group.Wait()
		require.EqualValues(t, 10, quarantined.Load())
		require.EqualValues(t, deaths, m.Stat().Crashes, "%d workers", workers)
		for _, h := range m.quarantine.held {
			require.Equal(t, holdFirst, h.wait)
		}
		require.Equal(t, 1, m.Stat().Quarantined)
		// A different request does not wait for the breaker.
		ctx, cancel := context.WithTimeout(t.Context(), breakPeriod)
		_, err = drain(ctx, m, engine.Prompt{Text: "innocent"}, engine.DefaultGenerateOptions())
		cancel()
		require.NoError(t, err)
		require.NoError(t, m.Close())
	}
}

// Whoever asked has gone long before a worker that hangs is ended, and asks again. The worker has not said that it is through with the
// request: that one is what ended it.
func TestARequestThatHangsItsWorkersIsFoundThoughItWasGivenUp(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "hangs of poison")
	suspects := func() int {
		m.quarantine.mu.Lock()
		defer m.quarantine.mu.Unlock()
		return len(m.quarantine.suspects)
	}
	ask := func(end func(cancel context.CancelFunc) (goOn bool)) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, err := range m.Generate(ctx, engine.Prompt{Text: "poison"}, engine.DefaultGenerateOptions()) {
			if err != nil {
				return err
			}
			if !end(cancel) {
				break
			}
		}
		return nil
	}
	kill := func(deaths int64) {
		require.NoError(t, syscall.Kill(pid(m), syscall.SIGKILL)) // as the watchdog does
		require.Eventually(t, func() bool { return m.Stat().Crashes == deaths }, aWhile, time.Millisecond)
	}
	require.ErrorIs(t, ask(func(cancel context.CancelFunc) bool { cancel(); return true }), context.Canceled)
	kill(1)
	require.Eventually(t, func() bool { return suspects() == 1 }, aWhile, time.Millisecond)
	require.NoError(t, ask(func(context.CancelFunc) bool { return false }), "a reader that leaves its loop")
	kill(2)
	require.Eventually(t, func() bool { return m.Stat().Quarantined == 1 }, aWhile, time.Millisecond)
	require.ErrorIs(t, ask(func(context.CancelFunc) bool { return true }), ErrQuarantined)
	require.Eventually(t, func() bool { return m.Stat().CrashesInARow == 0 }, aWhile, time.Millisecond, "the deaths are put down to it")
	_, err := drain(t.Context(), m, engine.Prompt{Text: "innocent"}, engine.DefaultGenerateOptions())
	require.NoError(t, err)
}

// A worker that hangs with what was given up has nothing to do as far as its slots go. If it were ended as idle, before its watchdog finds that it
// hangs, nobody would be blamed, and the next worker would get the same request again.
func TestAWorkerThatHangsWithWhatWasGivenUpIsEndedByItsWatchdog(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "hangs of poison", func(o *Options) { o.IdleTTL, o.StallTimeout, o.MinWorkers = time.Millisecond, time.Hour, -1 })
	for i := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := generateUntil(ctx, m, "poison", cancel)
		require.ErrorIs(t, err, context.Canceled)
		m.pool.mu.Lock()
		require.Len(t, m.pool.members, 1)
		x := m.pool.members[0]
		require.Equal(t, memberReady, x.state)
		at, _ := m.pool.expiry(x)
		m.pool.mu.Unlock()
		require.Greater(t, time.Until(at), time.Hour, "its watchdog comes first")
		require.Zero(t, x.worker().busyUntil().Sub(at))
		x.worker().hung(ErrHung) // it comes
		require.Eventually(t, func() bool { return m.Stat().Crashes == int64(i+1) && len(m.Stat().Workers) == 0 }, aWhile, time.Millisecond)
	}
	require.Eventually(t, func() bool { return m.Stat().Quarantined == 1 }, aWhile, time.Millisecond)
	_, err := drain(t.Context(), m, engine.Prompt{Text: "poison"}, engine.DefaultGenerateOptions())
	require.ErrorIs(t, err, ErrQuarantined)
	// One that was given up and is over keeps no worker.
	_, err = drain(t.Context(), m, engine.Prompt{Text: "innocent"}, engine.DefaultGenerateOptions())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(m.Stat().Workers) == 0 }, aWhile, time.Millisecond)
}

// generateUntil calls first when the first token is there, and reads on.
func generateUntil(ctx context.Context, m *Model, text string, first func()) (out string, err error) {
	for token, err := range m.Generate(ctx, engine.Prompt{Text: text}, engine.DefaultGenerateOptions()) {
		if err != nil {
			return out, err
		}
		if out == "" {
			first()
		}
		out += token.Text
	}
	return out, nil
}

// A reader may be behind its worker, and leave when that has died.
func TestARequestWhoseReaderLeavesAfterItsWorkersDeathIsFound(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies of poison")
	ask := func(deaths int64, leave func(context.CancelFunc) bool) (err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, e := range m.Generate(ctx, engine.Prompt{Text: "poison"}, engine.DefaultGenerateOptions()) {
			if err = e; err != nil {
				return err
			}
			require.Eventually(t, func() bool { return m.Stat().Crashes == deaths }, aWhile, time.Millisecond)
			if !leave(cancel) {
				break
			}
		}
		return err
	}
	require.NoError(t, ask(1, func(context.CancelFunc) bool { return false }))
	require.ErrorIs(t, ask(2, func(cancel context.CancelFunc) bool { cancel(); return true }), context.Canceled)
	require.Equal(t, 1, m.Stat().Quarantined)
	require.ErrorIs(t, ask(2, nil), ErrQuarantined)
}

// Small calls that are served do not say that requests are.
func TestCulpritsAreCountedByKind(t *testing.T) {
	q := &quarantine{}
	require.True(t, q.culprit())
	q.servedSmall()
	require.False(t, q.culprit(), "two in a row")
	require.True(t, q.smallCulprit())
	require.False(t, q.smallCulprit())
	q.served()
	require.True(t, q.culprit())
	require.True(t, q.smallCulprit())
}

// A prompt's tokens are told with the first token and with the last one.
func TestTokensOfAPromptCountOnce(t *testing.T) {
	m := loadFake(t, "tells of its prompt twice")
	_, err := drain(t.Context(), m, engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions())
	require.NoError(t, err)
	require.EqualValues(t, 5, m.counters.prompt.Load())
}

func TestARequestThatItsWorkerIsThroughWithIsNoSuspect(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "waits")
	hold(t, m, 3)() // given up, and acknowledged:
	require.Eventually(t, func() bool { return m.Stat().Stops.Count == 3 }, aWhile, time.Millisecond)
	release := hold(t, m, 1)
	w := m.pool.members[0].worker()
	w.mu.Lock()
	require.Len(t, w.underWay, 1, "those that are over are not kept")
	w.mu.Unlock()
	release()
	require.Eventually(t, func() bool { return m.Stat().Stops.Count == 4 }, aWhile, time.Millisecond)
	require.NoError(t, syscall.Kill(pid(m), syscall.SIGKILL))
	require.Eventually(t, func() bool { return m.Stat().Starts == 2 }, aWhile, time.Millisecond)
	require.Empty(t, m.quarantine.suspects)
}

// A text may be what ends a tokenizer, and small calls are not quarantined. Other requests are served all the same, and so is the same small
// call, as often as it comes.
func TestASmallCallThatKillsItsWorkersFailsNoOtherRequest(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies of poison")
	ctx, cancel := context.WithTimeout(t.Context(), breakPeriod)
	defer cancel()
	for i := range 6 {
		_, err := m.Encode(ctx, "poison", true)
		require.ErrorIs(t, err, ErrWorkerStopped)
		require.NotErrorIs(t, err, ErrCrashLoop)
		require.Eventually(t, func() bool { return m.Stat().Crashes >= int64(2*(i+1)) }, aWhile, time.Millisecond)
		require.EqualValues(t, 2*(i+1), m.Stat().Crashes, "as many workers as a request may end")
		if i%2 == 0 {
			_, err = m.Encode(ctx, "innocent", true)
		} else {
			_, err = drain(ctx, m, engine.Prompt{Text: "innocent"}, engine.DefaultGenerateOptions())
		}
		require.NoError(t, err)
	}
	require.Zero(t, m.Stat().Quarantined)
	// Where nothing is served in between, it may be the workers.
	var err error
	for range breakAfter {
		_, err = m.Encode(ctx, "poison", true)
	}
	require.ErrorIs(t, err, ErrCrashLoop)
}

// Small calls keep no worker from ending as idle. An end that the pool asked for is no death of which a call could be the cause, and it does not
// mean that the model is closed.
func TestASmallCallWhoseWorkersEndAsIdleSaysSo(t *testing.T) {
	noLeaks(t)
	cmd := fakeCommand("hangs of poison")
	cmd.down = &steps{}
	m, err := load(t.Context(), "/nowhere", Options{QuarantineDir: t.TempDir(), IdleTTL: time.Millisecond, MinWorkers: -1}, cmd)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	_, err = m.Encode(t.Context(), "poison", true)
	require.ErrorIs(t, err, ErrWorkerStopped)
	require.NotErrorIs(t, err, engine.ErrClosed)
	require.GreaterOrEqual(t, m.Stat().Starts, int64(smallTries))
	require.Zero(t, m.quarantine.smallCulprits.Load())
}

// The worker says what it computes: a request that was not in it is no suspect, however many workers die under it.
func TestOnlyTheRequestInThePassIsASuspect(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies of poison and tells")
	release := hold(t, m, 1)
	_, err := drain(t.Context(), m, engine.Prompt{Text: "poison"}, engine.DefaultGenerateOptions())
	require.ErrorIs(t, err, ErrQuarantined)
	require.Empty(t, m.quarantine.suspects)
	require.Eventually(t, func() bool { return m.Stat().Resumed == 3 }, aWhile, time.Millisecond, "the innocent one twice, the culprit once")
	release()
}

func TestTextThatIsNotUTF8IsAnErrorBeforeItTravels(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "default")
	bad := []byte(`[{"type":"function","function":{"name":"` + "\xff" + `"}}]`)
	chat := []engine.Message{{Role: "user", Content: "x"}}
	call := []engine.Message{{Role: "assistant", ToolCalls: []engine.ToolCall{{Type: "function", Function: engine.FunctionCall{Name: "f", Arguments: []byte(`{"a":"` + "\xff" + `"}`)}}}}}
	for name, try := range map[string]func() error{
		"tools": func() error {
			o := engine.DefaultGenerateOptions()
			o.Tools = bad
			_, err := drain(t.Context(), m, engine.Prompt{Messages: chat}, o)
			return err
		},
		"arguments of a call": func() error {
			_, err := drain(t.Context(), m, engine.Prompt{Messages: call}, engine.DefaultGenerateOptions())
			return err
		},
		"raw JSON in template arguments": func() error {
			o := engine.DefaultGenerateOptions()
			o.TemplateArguments = map[string]any{"x": []any{json.RawMessage(bad)}}
			_, err := m.RenderChat(t.Context(), chat, o)
			return err
		},
		"a name in template arguments": func() error {
			o := engine.DefaultGenerateOptions()
			o.TemplateArguments = map[string]any{"\xff": 1}
			_, err := drain(t.Context(), m, engine.Prompt{Messages: chat}, o)
			return err
		},
	} {
		require.ErrorIs(t, try(), engine.ErrInvalidUTF8, name)
	}
	_, err := m.Decode(t.Context(), []int32{-1})
	var token *engine.TokenError
	require.ErrorAs(t, err, &token)
	require.Zero(t, m.Stat().Crashes)
}

func TestShutdownWaitsForRequestsUnderWay(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "slow but working")
	result := make(chan error, 1)
	go func() {
		_, err := generateAll(context.Background(), m)
		result <- err
	}()
	require.Eventually(t, func() bool { return m.counters.generated.Load() > 0 }, aWhile, time.Millisecond)
	require.NoError(t, m.Shutdown(t.Context()))
	require.NoError(t, <-result)
	_, err := generateAll(t.Context(), m)
	require.ErrorIs(t, err, engine.ErrClosed)

	m = loadFake(t, "waits")
	go func() {
		_, err := generateAll(context.Background(), m)
		result <- err
	}()
	require.Eventually(t, func() bool { return m.counters.generated.Load() > 0 }, aWhile, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Shutdown(ctx), context.DeadlineExceeded)
	require.ErrorIs(t, <-result, engine.ErrClosed)
}

func TestAListIsSpreadOverAllWorkers(t *testing.T) {
	for _, c := range []struct{ workers, texts, want int }{{1, 512, 256}, {4, 512, 128}, {8, 512, 64}, {8, 10, 32}, {4, 5000, 256}} {
		m := &Model{pool: newPool(limits{max: c.workers}, nil, nil)}
		require.Equal(t, c.want, m.listChunk(c.texts))
	}
}

func TestArgumentsThatContainThemselvesAreAnError(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "default")
	round := []any{nil, nil}
	round[0], round[1] = round, round
	o := engine.DefaultGenerateOptions()
	o.TemplateArguments = map[string]any{"x": round}
	chat := []engine.Message{{Role: "user", Content: "x"}}
	var option *engine.OptionError
	_, err := m.RenderChat(t.Context(), chat, o)
	require.ErrorAs(t, err, &option)
	_, err = m.EncodeChat(t.Context(), chat, o)
	require.ErrorAs(t, err, &option)
	_, err = drain(t.Context(), m, engine.Prompt{Messages: chat}, o)
	require.ErrorAs(t, err, &option)
}
