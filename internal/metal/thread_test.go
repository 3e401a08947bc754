package metal

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

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
