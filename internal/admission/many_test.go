package admission

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// A queue may be long: what one event costs must not grow with its square, nor what those who wait are told.
func TestAThousandModelsAreServedInSeconds(t *testing.T) {
	const models, limit = 1000, 30 * time.Second
	sizes := map[string]int64{}
	for i := range models {
		sizes[fmt.Sprintf("model-%04d", i)] = 100
	}
	start := time.Now() // outside the bubble, where clocks are real
	var mu sync.Mutex
	longest := 0
	roomTest(t, Options{Budget: 400}, sizes, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var group sync.WaitGroup
		for name := range sizes {
			group.Go(func() {
				lease, err := b.Acquire(ctx, name, func(w engine.Wait) {
					mu.Lock()
					defer mu.Unlock()
					longest = max(longest, len(w.String()))
				})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				lease.Release()
			})
		}
		group.Wait()
		require.Len(t, b.opened, models)
	})
	require.Less(t, time.Since(start), limit)
	require.Less(t, longest, 1000, "a sentence that nobody reads to its end")
}

func TestAWaitNamesAFewModelsAndCountsTheRest(t *testing.T) {
	var l nameList
	for i := range maxNamed + 5 {
		l.add(fmt.Sprintf("m%02d", maxNamed+5-i))
		l.add(fmt.Sprintf("m%02d", maxNamed+5-i))
	}
	names, others := l.but("")
	require.Len(t, names, maxNamed)
	require.IsIncreasing(t, names)
	require.Equal(t, 5, others)

	less, others := l.but(names[3])
	require.NotContains(t, less, names[3])
	require.Equal(t, maxNamed-1+5, len(less)+others)
	_, others = l.but("m01") // one of those that are only counted
	require.Equal(t, 4, others)
	_, others = l.plus("new")
	require.Equal(t, 6, others)
	_, others = l.plus("m01")
	require.Equal(t, 5, others)

	var short nameList
	short.add("b")
	before, _ := short.but("")
	with, others := short.plus("a")
	require.Equal(t, []string{"a", "b"}, with)
	require.Zero(t, others)
	short.add("a")
	require.Equal(t, []string{"b"}, before, "what was returned stays as it is")
	require.Equal(t, "model x waits for 2 bytes of memory, 1 bytes of 3 bytes are free; before it: a, b and 7 others",
		engine.Wait{Model: "x", Reason: engine.WaitTurn, Models: with, Others: 7, Needed: 2, Free: 1, Budget: 3}.String())
}

// Memory that a request needs comes from models without requests, the one used longest ago first, and from no more than it takes.
func TestCloseIdleTakesTheModelsUsedLongestAgo(t *testing.T) {
	roomTest(t, Options{Budget: 500}, hundreds("a", "b", "c", "d", "e"), func(t *testing.T, b *bench) {
		for _, name := range []string{"b", "a", "e", "c"} {
			b.use(name).Release()
		}
		lease := b.use("d")
		memory := lease.Model.(*fake).memory
		all := func(Model) bool { return true }
		require.NoError(t, b.Pin("a", true))
		require.False(t, memory.CloseIdle(t.Context(), 1, func(Model) bool { return false }))
		require.True(t, memory.CloseIdle(t.Context(), 150, all))
		require.Equal(t, []engine.ModelPhase{engine.PhaseReady, engine.PhaseCold, engine.PhaseReady, engine.PhaseReady, engine.PhaseCold}, []engine.ModelPhase{b.phase("a"), b.phase("b"), b.phase("c"), b.phase("d"), b.phase("e")})

		// One that is being closed already is waited for, as long as the context lasts.
		slow := make(chan struct{})
		b.mu.Lock()
		b.slow = slow
		b.mu.Unlock()
		closed, err := b.Unload("c")
		require.NoError(t, err)
		require.True(t, closed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.False(t, memory.CloseIdle(ctx, 1, all))
		go func() {
			time.Sleep(time.Second)
			close(slow)
		}()
		require.True(t, memory.CloseIdle(t.Context(), 1, all))
		require.Equal(t, engine.PhaseCold, b.phase("c"))
		require.False(t, memory.CloseIdle(t.Context(), 1, all), "there is none left")
		lease.Release()
	})
}
