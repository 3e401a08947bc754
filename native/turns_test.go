package native

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// setBudget lets the model hold so much more than it holds now.
func setBudget(t *testing.T, m *Model, more int64) {
	t.Helper()
	before := mlxtest.Measure(t)
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		m.owner.Budget = int64(before.Active) + more
		return nil
	}))
}

// room is what a prompt of so many tokens needs, and less than a stream over so many holds.
func room(m *Model, tokens int) int64 {
	return m.network.PassBytes(tokens-1, 0, 0) + m.network.NewSequence().Growth(tokens) + 100_000
}

// Requests that do not fit beside each other wait for each other, whatever they are, and each gives what it gives alone: also those
// that had tokens already when they gave their memory back.
func TestRequestsWaitForMemoryAndGiveWhatTheyGiveAlone(t *testing.T) {
	withAndWithoutSharedKV(t, func(t *testing.T, m *Model) {
		if !m.network.Shape.Rings && !m.scheduler.Batching && !testenv.Slow() {
			return // as much work as the two others, and the same code as with shared KV
		}
		greedy := engine.DefaultGenerateOptions()
		greedy.IgnoreEOS, greedy.MaxTokens = true, 270
		seeded := greedy
		seeded.Temperature, seeded.Seed, seeded.HasSeed, seeded.RepetitionPenalty, seeded.LogProbs = 1, 7, true, 1.2, true
		patterned := greedy
		patterned.IgnoreEOS, patterned.Grammar = false, engine.Grammar{Kind: "regex", Text: "[a-z ]{600,}"}
		options := []engine.GenerateOptions{greedy, seeded, patterned}
		var waits atomic.Int64
		ask := func(i int, come, meet func()) (a answer) {
			o := options[i%len(options)]
			o.Events = func(e engine.Event) {
				if e.Kind == engine.EventWait {
					waits.Add(1)
					come()
				}
			}
			a.runFrom(t.Context(), m, engine.Prompt{IDs: numbers(300+10*i, 3)}, o, meet)
			return a
		}
		const requests = 4
		var want [requests]answer
		for i := range want {
			want[i] = ask(i, nobody, nobody)
			require.NoError(t, want[i].err)
		}
		require.Zero(t, waits.Load())
		made := m.owner.Counters.Prompt.Load()
		setBudget(t, m, 50_000+3*(m.network.PassBytes(1, 0, 1)+m.network.NewSequence().Growth(3)))
		requireTheSameTogether(t, want[:], ask)
		require.Positive(t, waits.Load())
		require.Greater(t, m.owner.Counters.Prompt.Load(), 2*made, "some had begun before they waited")
		requireNoTurns(t)
	})
}

// held begins a stream that keeps its memory until letGo is called.
func held(t *testing.T, m *Model, tokens int) (letGo func()) {
	t.Helper()
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 100
	begun, end, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for _, e := range m.Generate(context.WithoutCancel(t.Context()), engine.Prompt{IDs: numbers(300, tokens)}, o) {
			if err = e; err == nil {
				close(begun)
				<-end
			}
			break
		}
		over <- err
	}()
	<-begun
	return func() {
		close(end)
		require.NoError(t, <-over)
	}
}

// waits begins a request and returns when it waits, with what it waits for.
func waits(t *testing.T, ctx context.Context, m *Model, tokens int) (label string, done <-chan answer) {
	t.Helper()
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 3
	told := make(chan string, 100)
	o.Events = func(e engine.Event) {
		if e.Kind == engine.EventWait {
			told <- e.Label
		}
	}
	out := make(chan answer, 1)
	go func() {
		var a answer
		a.run(ctx, m, engine.Prompt{IDs: numbers(300, tokens)}, o)
		out <- a
	}()
	return <-told, out
}

func TestARequestSaysWhatItWaitsFor(t *testing.T) {
	m := openWith(t, engine.NativeOptions{Exact: true})
	setBudget(t, m, room(m, 500))
	letGo := held(t, m, 500)
	ctx, cancel := context.WithCancelCause(t.Context())
	label, done := waits(t, ctx, m, 500)
	require.Contains(t, label, "held by: 1 requests")
	require.Contains(t, label, "MiB are in use")
	// A later request waits for it, even if it would fit.
	later, second := waits(t, t.Context(), m, 20)
	require.Contains(t, later, "before it: 1 requests")
	gone := fmt.Errorf("the caller left")
	cancel(gone)
	first := <-done
	require.ErrorIs(t, first.err, gone)
	require.ErrorContains(t, first.err, "waits for")
	require.NoError(t, (<-second).err)
	letGo()
}

func TestAClassificationWaitsForMemory(t *testing.T) {
	m := openWith(t, engine.NativeOptions{Exact: true})
	classify := func(ctx context.Context) error {
		_, err := m.Classify(ctx, []string{"Please"}, engine.ClassifyOptions{Labels: []string{"a", "b"}, Prompt: "{text} is {labels}"})
		return err
	}
	setBudget(t, m, 1000)
	var over *engine.BudgetError
	require.ErrorAs(t, classify(t.Context()), &over)
	setBudget(t, m, over.Needed+100_000) // which is less than a prompt holds
	letGo := held(t, m, 500)
	done := make(chan error, 1)
	go func() { done <- classify(context.WithoutCancel(t.Context())) }()
	require.Eventually(t, func() bool {
		_, waiting := owner.Turns()
		return waiting > 0
	}, 5*time.Minute, time.Millisecond)
	letGo()
	require.NoError(t, <-done)
}

func TestARequestLargerThanTheBudgetFailsAlsoBesideConcurrentOnes(t *testing.T) {
	m := openWith(t, engine.NativeOptions{Exact: true})
	setBudget(t, m, room(m, 500))
	letGo := held(t, m, 300)
	_, done := waits(t, t.Context(), m, 1900)
	letGo()
	require.ErrorIs(t, (<-done).err, engine.ErrBudget)
}

func TestCloseEndsRequestsThatWaitForMemory(t *testing.T) {
	m, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Exact: true})
	require.NoError(t, err)
	setBudget(t, m, room(m, 500))
	letGo := held(t, m, 500)
	_, done := waits(t, t.Context(), m, 500)
	require.NoError(t, m.Close())
	require.ErrorIs(t, (<-done).err, engine.ErrClosed)
	letGo()
	requireNoTurns(t)
}

// requireNoTurns checks that no request has a place in the queue.
func requireNoTurns(t *testing.T) {
	t.Helper()
	requests, _ := owner.Turns()
	require.Zero(t, requests)
}

// A load waits for requests of other models, too, where a host says that there are some.
func TestALoadWaitsForMemory(t *testing.T) {
	for name, draft := range map[string]string{"model": "", "draft": testenv.Model(t)} {
		t.Run(name, func(t *testing.T) {
			before := mlxtest.Measure(t)
			m := openWith(t, engine.NativeOptions{Exact: true})
			weights := m.info.WeightBytes
			if draft != "" {
				weights *= 2
			}
			setBudget(t, m, 1<<30)
			// Measured while nothing is computed: the held stream goes on for some tokens, and what a pass holds meanwhile comes and goes.
			idle := mlxtest.Measure(t)
			letGo := held(t, m, 500)
			metrics, err := m.Metrics(t.Context())
			require.NoError(t, err)
			require.Positive(t, metrics.KVBytes)
			options := engine.NativeOptions{
				Exact: true, Draft: draft, MakeRoom: func(context.Context, int64) bool { return false },
				MemoryBudget: int64(idle.Active) + metrics.KVBytes/2 + weights,
			}
			done := make(chan error, 1)
			go func() {
				second, err := Load(context.WithoutCancel(t.Context()), testenv.Model(t), options)
				if err == nil {
					err = second.Close()
				}
				done <- err
			}()
			require.Eventually(t, func() bool {
				_, waiting := owner.Turns()
				return waiting > 0 || len(done) > 0
			}, 5*time.Minute, time.Millisecond)
			require.Empty(t, done)
			letGo()
			require.NoError(t, <-done)

			options.MemoryBudget = int64(before.Active) + weights/2
			_, err = Load(t.Context(), testenv.Model(t), options)
			require.ErrorIs(t, err, engine.ErrBudget, "what does not fit alone")
			requireNoTurns(t)
		})
	}
}

// nobody is what a request calls that meets no other.
func nobody() {}

// requireTheSameTogether asks all requests at once and checks that each gives what it gave alone.
func requireTheSameTogether(t *testing.T, want []answer, ask func(i int, come, meet func()) answer) {
	t.Helper()
	var group sync.WaitGroup
	got, all := make([]answer, len(want)), newMeeting(len(want))
	for i := range got {
		come, meet := all.join()
		group.Go(func() {
			defer come() // where it fails
			got[i] = ask(i, come, meet)
		})
	}
	group.Wait()
	for i := range got {
		require.NoError(t, got[i].err, i)
		require.Equal(t, want[i], got[i], i)
	}
}

// A reader that asks for no more tokens does not see that its context has ended, and is told when it asks. Its memory does not wait for that.
func TestAReaderThatStandsStillGivesItsMemoryBackWhenItsContextEnds(t *testing.T) {
	m := openWith(t, engine.NativeOptions{Exact: true})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 100
	before := mlxtest.Measure(t)
	setBudget(t, m, room(m, 500))
	ctx, cancel := context.WithCancel(t.Context())
	next, stop := iter.Pull2(m.Generate(ctx, engine.Prompt{IDs: numbers(300, 500)}, o))
	defer stop()
	_, err, _ := next()
	require.NoError(t, err)
	_, done := waits(t, t.Context(), m, 500)
	cancel()
	require.NoError(t, (<-done).err, "who waited for its memory goes on")
	require.Eventually(t, func() bool {
		requests, _ := owner.Turns()
		return requests == 0 && m.owner.Counters.Active.Load() == 0 && mlxtest.Measure(t).Active <= before.Active
	}, time.Minute, time.Millisecond)
	for err == nil {
		_, err, _ = next()
	}
	require.ErrorIs(t, err, context.Canceled)
}
