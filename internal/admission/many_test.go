package admission

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// A queue may be long. Every event changes what all waiters wait for; they are told at once if the reason is another one, else once
// a second, in a sentence that is short enough to be read.
func TestALongQueueIsToldOncePerSecond(t *testing.T) {
	const models, perSecond = 400, 4 // so many loads end in a second
	sizes := map[string]int64{}
	for i := range models {
		sizes[fmt.Sprintf("model-%04d", i)] = 100
	}
	var mu sync.Mutex // guards what follows
	longest, most := 0, 0
	roomTest(t, Options{Budget: 100 * perSecond}, sizes, func(t *testing.T, b *bench) {
		start := time.Now()
		var group sync.WaitGroup
		for name := range sizes {
			group.Go(func() {
				tells := 0
				lease, err := b.Acquire(t.Context(), name, func(w engine.Wait) {
					mu.Lock()
					defer mu.Unlock()
					longest = max(longest, len(w.String()))
					tells++
				})
				// A short list is told whenever it gets shorter.
				if limit := int(time.Since(start)/tellEvery) + 2*maxNamed; tells > limit {
					t.Errorf("%s was told %d times in %v", name, tells, time.Since(start))
				}
				mu.Lock()
				most = max(most, tells)
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				lease.Release()
			})
		}
		group.Wait()
		require.Len(t, b.loads(), models)
		require.LessOrEqual(t, time.Since(start), models/perSecond*time.Second+time.Second)
	})
	require.Greater(t, most, models/perSecond/2, "they are told how the queue gets shorter")
	require.Less(t, longest, 1000)
}

// Whether a wait is told does not depend on how soon the goroutine that waits gets to run.
func TestAWaitThatIsOverAlreadyIsTold(t *testing.T) {
	roomTest(t, Options{Budget: 100}, hundreds("a"), func(t *testing.T, b *bench) {
		first := b.Join("first").Claim(80, Needed)
		late := b.Join("late").Claim(30, Needed)
		first.Release()
		var told []string
		require.NoError(t, late.Await(t.Context(), func(w Wait) { told = append(told, w.String()) }))
		require.Equal(t, []string{"model late waits for 30 bytes of memory, 20 bytes of 100 bytes are free; held by models that are not closed for others: first"}, told)
		late.Release()
		atOnce := b.Join("at once").Claim(30, Needed)
		require.NoError(t, atOnce.Await(t.Context(), func(w Wait) { t.Error("it did not wait:", w) }))
		atOnce.Release()
	})
}

// Numbers that change are told within a second, also if nothing else happens then, and at once if they had not changed for one.
func TestNumbersThatChangeAreToldWithinASecond(t *testing.T) {
	roomTest(t, Options{Budget: 1000}, hundreds("a"), func(t *testing.T, b *bench) {
		own := b.Join("own").Claim(950, Needed)
		waits := b.ask(t.Context(), "a")
		time.Sleep(time.Minute)
		free := func(bytes int64) string {
			return fmt.Sprintf("%d bytes of 1000 bytes are free", bytes)
		}
		own.Resize(940)
		synctest.Wait()
		require.Contains(t, waits.text(), free(60))
		own.Resize(930)
		own.Resize(920)
		synctest.Wait()
		require.Contains(t, waits.text(), free(60))
		time.Sleep(tellEvery)
		synctest.Wait()
		require.Contains(t, waits.text(), free(80))
		own.Resize(910)
		synctest.Wait()
		own.Release()
		<-waits.done
		waits.lease.Release()
	})
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
		slow := b.closesWait()
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

// Many requests may wait for one model, and any event of any model is looked at for all of them if they are gone through each time.
func TestRequestsAreGoneThroughOnlyWhenThereIsSomethingToSay(t *testing.T) {
	roomTest(t, Options{}, hundreds("a", "b"), func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		const requests = 10000
		var group sync.WaitGroup
		for range requests {
			group.Go(func() { _, _ = b.Acquire(ctx, "a", nil) })
		}
		synctest.Wait()
		e := b.entries[0]
		marked := engine.Wait{Model: "the test's mark"}
		b.Registry.mu.Lock()
		require.Len(t, e.requests, requests)
		require.Equal(t, engine.WaitLoad, e.requests[0].wait.Reason)
		require.Equal(t, engine.WaitLoad, e.requests[requests-1].wait.Reason)
		e.requests[0].wait = marked
		b.Registry.mu.Unlock()
		late := b.ask(ctx, "a")
		require.Equal(t, []engine.WaitReason{engine.WaitLoad}, late.told())
		other := b.ask(ctx, "b")
		b.Registry.mu.Lock()
		require.Equal(t, marked, e.requests[0].wait)
		b.Registry.mu.Unlock()
		cancel()
		group.Wait()
		<-late.done
		<-other.done
		require.Empty(t, e.requests)
	})
}
