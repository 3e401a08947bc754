package mlxc

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDoCarriesPanicsToTheCaller(t *testing.T) {
	l, err := Acquire()
	require.NoError(t, err)
	err = l.Do(context.Background(), func() { panic("boom") })
	var p *PanicError
	require.ErrorAs(t, err, &p)
	require.Equal(t, "boom", p.Value)
	require.Contains(t, string(p.Stack), "thread_test.go")
	require.NoError(t, l.Do(context.Background(), func() {}), "the thread lives on")
	require.NoError(t, l.Release(func() {}))
}

func TestCancelledJobsAreNotRunWhileQueued(t *testing.T) {
	l, err := Acquire()
	require.NoError(t, err)
	hold, running := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = l.Do(context.Background(), func() { close(running); <-hold })
	})
	<-running
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	ran := false
	go func() { result <- l.Do(ctx, func() { ran = true }) }()
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	close(hold)
	wg.Wait()
	require.False(t, ran)
	require.NoError(t, l.Release(func() {}))
}

func TestReleaseIsIdempotentAndEndsTheLease(t *testing.T) {
	l, err := Acquire()
	require.NoError(t, err)
	cleaned := 0
	require.NoError(t, l.Release(func() { cleaned++ }))
	require.NoError(t, l.Release(func() { cleaned++ }))
	require.Equal(t, 1, cleaned)
	require.ErrorIs(t, l.Do(context.Background(), func() {}), ErrReleased)
}

func TestReleasedThreadsAreUsedAgain(t *testing.T) {
	first, err := Acquire()
	require.NoError(t, err)
	thread := first.thread
	require.NoError(t, first.Release(func() {}))
	second, err := Acquire()
	require.NoError(t, err)
	require.Same(t, thread, second.thread)
	require.NoError(t, second.Release(func() {}))
}

func TestJobsOfOneLeaseNeverOverlap(t *testing.T) {
	l, err := Acquire()
	require.NoError(t, err)
	var inside, total atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				_ = l.Do(context.Background(), func() {
					if inside.Add(1) != 1 {
						panic("two jobs at once")
					}
					total.Add(1)
					inside.Add(-1)
				})
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 400, total.Load())
	require.NoError(t, l.Release(func() {}))
}

func TestErrorsStayOnTheirThread(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			run2 := func(l *Lease, s *Scope) {
				for range 200 {
					c := s.Child()
					if i%2 == 0 {
						c.Matmul(counting(c, 2, 3), counting(c, 2, 3))
						if c.Err() == nil {
							panic("lost an error")
						}
					} else if c.Eval(c.Exp(counting(c, 3))) != nil {
						panic("another thread's error")
					}
					_ = c.Close()
				}
			}
			l, err := Acquire()
			if err != nil {
				panic(err)
			}
			if err := l.Do(context.Background(), func() {
				s := l.NewScope()
				defer s.Close()
				run2(l, s)
			}); err != nil {
				t.Error(err)
			}
			_ = l.Release(func() {})
		})
	}
	wg.Wait()
}

// While Release waits for a long job, whoever else comes is answered at once, and whoever queues still minds its context.
func TestReleaseBlocksNoOtherCall(t *testing.T) {
	l, err := Acquire()
	require.NoError(t, err)
	hold, running := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Do(context.Background(), func() { close(running); <-hold }) })
	<-running
	ctx, cancel := context.WithCancel(context.Background())
	queued := make(chan error, 1)
	go func() { queued <- l.Do(ctx, func() {}) }()
	for !l.Awaited() {
		runtime.Gosched()
	}
	released := make(chan error, 1)
	cleaned := false
	go func() { released <- l.Release(func() { cleaned = true }) }()
	answered := make(chan error, 1)
	go func() {
		for { // until Release has begun, it queues too, and gives up
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			err := l.Do(ctx, func() {})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				answered <- err
				return
			}
		}
	}()
	soon := func(c chan error) error {
		select {
		case err := <-c:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("it waits for the job under way")
		}
	}
	require.ErrorIs(t, soon(answered), ErrReleased)
	cancel()
	require.ErrorIs(t, soon(queued), context.Canceled)
	require.False(t, cleaned)
	again := make(chan error, 1)
	go func() { again <- l.Release(func() { t.Error("cleaned up twice") }) }()
	close(hold)
	wg.Wait()
	require.NoError(t, soon(released))
	require.NoError(t, soon(again))
	require.True(t, cleaned)
}
