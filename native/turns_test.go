package native

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// setBudget lets the model hold so much more than it holds now.
func setBudget(t *testing.T, m *Model, more int64) {
	t.Helper()
	before := measure(t)
	require.NoError(t, m.do(t.Context(), func() error {
		m.options.MemoryBudget = int64(before.active) + more
		return nil
	}))
}

// room is what a prompt of so many tokens needs, and less than a stream over so many holds.
func room(m *Model, tokens int) int64 {
	return m.passBytes(tokens-1, 0, 0) + m.kvBytes(newDecodeState(m.shape), tokens) + 100_000
}

// Requests that do not fit beside each other wait for each other, whatever they are, and each gives what it gives alone: also those
// that had tokens already when they gave their memory back.
func TestRequestsWaitForMemoryAndGiveWhatTheyGiveAlone(t *testing.T) {
	withAndWithoutSharedKV(t, func(t *testing.T, m *Model) {
		if !m.shape.kernels && !m.batching && !testenv.Slow() {
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
		for i := range options {
			options[i].Events = func(e engine.Event) {
				if e.Kind == engine.EventWait {
					waits.Add(1)
				}
			}
		}
		ask := func(i int) (a answer) {
			a.run(t.Context(), m, engine.Prompt{IDs: numbers(300+10*i, 3)}, options[i%len(options)])
			return a
		}
		const requests = 4
		var want [requests]answer
		for i := range want {
			want[i] = ask(i)
			require.NoError(t, want[i].err)
		}
		require.Zero(t, waits.Load())
		made := m.counters.prompt.Load()
		setBudget(t, m, 50_000+3*(m.passBytes(1, 0, 1)+m.kvBytes(newDecodeState(m.shape), 3)))
		var group sync.WaitGroup
		var got [requests]answer
		for i := range got {
			group.Go(func() { got[i] = ask(i) })
		}
		group.Wait()
		for i := range got {
			require.NoError(t, got[i].err, i)
			require.Equal(t, want[i], got[i], i)
		}
		require.Positive(t, waits.Load())
		require.Greater(t, m.counters.prompt.Load(), 2*made, "some had begun before they waited")
		require.Empty(t, memoryTurns.all)
	})
}

// held begins a stream that keeps its memory until it is let go.
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
	// Who comes later waits behind it, also if it would fit.
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
		memoryTurns.mu.Lock()
		defer memoryTurns.mu.Unlock()
		return slices.ContainsFunc(memoryTurns.all, func(x *turn) bool { return x.stalls > 0 && !x.running })
	}, time.Minute, time.Millisecond)
	letGo()
	require.NoError(t, <-done)
}

func TestWhatNeverFitsIsAnErrorAlsoInCompany(t *testing.T) {
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
	require.Empty(t, memoryTurns.all)
}

// The queue by itself.
func TestTurnsAreGivenInOrder(t *testing.T) {
	q := &turns{changed: make(chan struct{})}
	began := func(x *turn) bool {
		changed, _, _ := q.begin(x)
		return changed == nil
	}
	over := &engine.BudgetError{}
	a, b, c := q.arrive(), q.arrive(), q.arrive()
	require.True(t, began(a))
	require.True(t, began(b))
	require.True(t, q.stall(b, true, over), "others run")
	require.False(t, began(c), "an earlier one waits")
	require.False(t, began(b), "nothing was given back")
	q.leave(a)
	require.False(t, began(c), "an earlier one waits")
	require.True(t, began(b))
	require.True(t, began(c), "nobody waits")
	require.True(t, q.stall(b, true, over))
	d := q.arrive()
	q.leave(c)
	require.True(t, began(b))
	require.False(t, began(d), "who gave twice back what it had computed is not overtaken again")
	require.False(t, q.stall(b, true, over), "it had everything")
	q.leave(b)
	require.True(t, began(d))
	q.leave(d)
	require.Empty(t, q.all)

	// One that never gets anything done is not overtaken for ever either.
	e := q.arrive()
	require.True(t, began(e))
	for range maxStalls {
		f := q.arrive()
		require.True(t, began(f))
		require.True(t, q.stall(e, false, over))
		q.leave(f)
		require.True(t, began(e))
	}
	require.False(t, began(q.arrive()))
}

// However requests come, stall and end, somebody can always go on, and the one that came first is never the one to wait for ever.
func TestTurnsNeverStandStill(t *testing.T) {
	const budget, requests = 10, 300
	q := &turns{changed: make(chan struct{})}
	var mu sync.Mutex
	used := 0
	take := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		if used+n > budget {
			return false
		}
		used += n
		return true
	}
	give := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		used -= n
	}
	var group sync.WaitGroup
	refused := make(chan int, requests)
	for i := range requests {
		needs := 1 + i*7%12 // some need more than there is
		group.Go(func() {
			x := q.arrive()
			defer q.leave(x)
			for {
				for {
					changed, _, _ := q.begin(x)
					if changed == nil {
						break
					}
					<-changed
				}
				held := 0
				for held < needs && take(1) {
					held++
				}
				give(held)
				if held == needs {
					return
				}
				if !q.stall(x, held > 0, &engine.BudgetError{}) {
					refused <- needs
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		group.Wait()
		close(finished)
	}()
	select {
	case <-finished:
	case <-time.After(time.Minute):
		t.Fatal("requests wait for ever")
	}
	close(refused)
	n := 0
	for needs := range refused {
		require.Greater(t, needs, budget)
		n++
	}
	require.Equal(t, requests/6, n)
	require.Empty(t, q.all)
}
