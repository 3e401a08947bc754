package owner

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// The queue by itself.
func TestTurnsAreGivenInOrder(t *testing.T) {
	q := &turns{}
	began := func(x *turn) bool {
		if !x.running && !x.asks {
			q.ask(x)
		}
		if x.running {
			<-x.granted
		}
		return x.running
	}
	over := &engine.BudgetError{}
	a, b, c := q.arrive(), q.arrive(), q.arrive()
	require.True(t, began(a))
	require.True(t, began(b))
	require.True(t, q.stall(b, true, over), "others run")
	require.False(t, began(c), "an earlier one waits")
	require.False(t, began(b), "nothing was given back")
	q.leave(a)
	q.leave(a)
	require.Equal(t, 2, q.requests, "who has left has left")
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
	require.Zero(t, q.requests)

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
	q := &turns{}
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
				q.ask(x)
				<-x.granted
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
	case <-time.After(5 * time.Minute):
		t.Fatal("requests wait for ever")
	}
	close(refused)
	n := 0
	for needs := range refused {
		require.Greater(t, needs, budget)
		n++
	}
	require.Equal(t, requests/6, n)
	require.Zero(t, q.requests)
}

// An event wakes those who may go on, and nobody else: otherwise ten thousand requests take minutes to get one after the other what they
// need, all of it spent on looking.
func TestALongQueueIsServedAsFastAsAShortOne(t *testing.T) {
	const requests = 10000
	o := &Owner{Budget: 1, Closed: make(chan struct{})}
	var used, served atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range requests {
		group.Go(func() {
			err := o.InTurn(t.Context(), nil, func(func()) (bool, error) {
				defer used.Add(-1)
				if used.Add(1) > 1 {
					return false, &engine.BudgetError{}
				}
				runtime.Gosched() // others find no memory meanwhile
				served.Add(1)
				return false, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, requests, served.Load())
	require.Less(t, time.Since(start), 30*time.Second)
	all, waiting := Turns()
	require.Zero(t, all)
	require.Zero(t, waiting)
}
