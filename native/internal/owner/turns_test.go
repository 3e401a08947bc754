package owner

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

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

// However requests come, stall and end, some request can always go on, and the one that came first never waits for ever.
func TestWaitingRequestsAlwaysMakeProgress(t *testing.T) {
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
