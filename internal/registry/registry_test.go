package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

// fakeModel counts how often it was closed; nothing else of it is used.
type fakeModel struct {
	mlx.TextModel
	closed *atomic.Int64
}

func (f fakeModel) Close() error {
	f.closed.Add(1)
	return nil
}

type bench struct {
	*Registry
	opened, closed atomic.Int64
	fail           atomic.Pointer[error]
}

// newBench has models a, b and c of 100 bytes each; loading one takes a second.
func newBench(t *testing.T, o Options) *bench {
	b := &bench{}
	o.open = func(ctx context.Context, m Model, events func(mlx.Event)) (mlx.TextModel, error) {
		b.opened.Add(1)
		events(mlx.Event{Kind: mlx.EventLoad, Done: 50, Total: 100})
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := b.fail.Load(); err != nil {
			return nil, *err
		}
		return fakeModel{closed: &b.closed}, nil
	}
	var models []Model
	for _, name := range []string{"a", "b", "c"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), make([]byte, 100), 0o600))
		models = append(models, Model{Name: name, Path: dir})
	}
	var err error
	b.Registry, err = New(models, o)
	require.NoError(t, err)
	return b
}

func (b *bench) phase(name string) Phase {
	for _, s := range b.States() {
		if s.Name == name {
			return s.Phase
		}
	}
	return ""
}

func (b *bench) use(t *testing.T, name string) *Lease {
	l, err := b.Acquire(t.Context(), name)
	require.NoError(t, err)
	return l
}

func TestManyRequestsLoadAModelOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		for range 20 {
			go func() {
				l, err := b.Acquire(t.Context(), "a")
				if err == nil {
					l.Release()
					l.Release()
				}
			}()
		}
		synctest.Wait()
		require.Equal(t, Loading, b.phase("a"))
		require.Equal(t, int64(50), b.States()[0].Done)
		time.Sleep(2 * time.Second)
		require.Equal(t, int64(1), b.opened.Load())
		require.Zero(t, b.States()[0].Active)
		require.NoError(t, b.Close())
		require.Equal(t, int64(1), b.closed.Load())
	})
}

func TestAnIdleModelIsClosedAfterItsTTLAndNotWhileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{TTL: time.Minute})
		l := b.use(t, "a")
		time.Sleep(10 * time.Minute)
		require.Equal(t, Ready, b.phase("a"))
		l.Release()
		time.Sleep(50 * time.Second)
		b.use(t, "a").Release()
		time.Sleep(50 * time.Second)
		require.Equal(t, Ready, b.phase("a"), "the second use counts")
		time.Sleep(20 * time.Second)
		require.Equal(t, Cold, b.phase("a"))
		b.use(t, "a").Release()
		require.Equal(t, int64(2), b.opened.Load())
		require.NoError(t, b.Close())
	})
}

func TestTheModelUsedLongestAgoMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Budget: 250})
		b.use(t, "a").Release()
		b.use(t, "b").Release()
		b.use(t, "a").Release()
		b.use(t, "c").Release()
		require.Equal(t, []Phase{Ready, Cold, Ready}, []Phase{b.phase("a"), b.phase("b"), b.phase("c")})
		require.NoError(t, b.Close())
		require.Equal(t, b.opened.Load(), b.closed.Load())
	})
}

// Two models take turns in room for one, however many requests the first one gets.
func TestABusyModelDoesNotStarveAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Budget: 150})
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for range 3 {
			clients.Go(func() {
				for ctx.Err() == nil {
					if l, err := b.Acquire(ctx, "a"); err == nil {
						time.Sleep(700 * time.Millisecond)
						l.Release()
					}
				}
			})
		}
		time.Sleep(2 * time.Second)
		begin := time.Now()
		b.use(t, "b").Release()
		require.Less(t, time.Since(begin), 10*time.Second)
		time.Sleep(20 * time.Second)
		require.Equal(t, Ready, b.phase("a"), "and the first one comes back")
		stop()
		clients.Wait()
		require.NoError(t, b.Close())
	})
}

func TestAFailedLoadIsTriedAgainByTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		broken := errors.New("broken")
		b.fail.Store(&broken)
		_, err := b.Acquire(t.Context(), "a")
		require.ErrorIs(t, err, broken)
		require.Equal(t, Failed, b.phase("a"))
		require.ErrorIs(t, b.States()[0].Err, broken)
		b.fail.Store(nil)
		b.use(t, "a").Release()
		require.NoError(t, b.Close())
	})
}

func TestAWaitEndsWithItsContextAndTheLoadGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := b.Acquire(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		require.Equal(t, Ready, b.phase("a"))
		require.NoError(t, b.Close())
	})
}

func TestCloseEndsLoadsAndLaterRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		l := b.use(t, "b")
		go func() { _, _ = b.Acquire(t.Context(), "a") }()
		synctest.Wait()
		require.NoError(t, b.Close())
		require.NotEqual(t, Ready, b.phase("a"))
		require.Equal(t, int64(1), b.closed.Load())
		l.Release()
		_, err := b.Acquire(t.Context(), "b")
		require.ErrorIs(t, err, ErrClosed)
		require.NoError(t, b.Close())
	})
}

func TestWhatCannotBeServedIsAnError(t *testing.T) {
	b := newBench(t, Options{Budget: 50})
	_, err := b.Acquire(t.Context(), "a")
	require.ErrorIs(t, err, mlx.ErrBudget)
	_, err = b.Acquire(t.Context(), "nobody")
	var unknown *UnknownModelError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, []string{"a", "b", "c"}, unknown.Known)
	_, err = New(nil, Options{})
	require.Error(t, err)
	_, err = New([]Model{{Name: "x", Path: "1"}, {Name: "x", Path: "2"}}, Options{})
	require.ErrorContains(t, err, "two models")
}

// What was to be closed for a model is not, when nobody wants that model any more.
func TestAModelThatWasToMakeRoomTakesRequestsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Budget: 100})
		l := b.use(t, "a")
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.Acquire(ctx, "b")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		begin := time.Now()
		b.use(t, "a").Release()
		require.Zero(t, time.Since(begin))
		l.Release()
		require.Equal(t, Ready, b.phase("a"))
		// With two in the row, one that gives up leaves the other its turn.
		l = b.use(t, "a")
		short, cancel2 := context.WithTimeout(t.Context(), time.Minute)
		defer cancel2()
		go func() { _, _ = b.Acquire(short, "b") }()
		synctest.Wait()
		got := make(chan *Lease)
		go func() { got <- b.use(t, "c") }()
		time.Sleep(2 * time.Minute)
		l.Release()
		(<-got).Release()
		require.NoError(t, b.Close())
	})
}

func TestABrokenModelDoesNotCloseGoodOnesAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Budget: 200})
		broken, open := errors.New("broken weights"), b.options.open
		fixed := false
		b.options.open = func(ctx context.Context, m Model, events func(mlx.Event)) (mlx.TextModel, error) {
			if m.Name == "c" && !fixed {
				return nil, broken
			}
			return open(ctx, m, events)
		}
		for range 5 {
			b.use(t, "a").Release()
			b.use(t, "b").Release()
			_, err := b.Acquire(t.Context(), "c")
			require.ErrorIs(t, err, broken)
		}
		require.EqualValues(t, 1, b.closed.Load())
		var retry *RetryError
		_, err := b.Acquire(t.Context(), "c")
		require.ErrorAs(t, err, &retry)
		fixed = true
		time.Sleep(retry.After)
		b.use(t, "c").Release()
		require.NoError(t, b.Close())
	})
}

// eventful closes as a model of the python engine does: when its event func has seen all events.
type eventful struct {
	fakeModel
	events func(mlx.Event)
}

func (e eventful) Close() error {
	done := make(chan struct{})
	go func() {
		e.events(mlx.Event{Kind: mlx.EventLoad, Done: 100, Total: 100})
		close(done)
	}()
	<-done
	return e.fakeModel.Close()
}

func TestCloseWaitsForNoEventOfALoadThatEndsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := make(chan struct{})
		var b *bench
		b = newBench(t, Options{})
		b.options.open = func(_ context.Context, _ Model, events func(mlx.Event)) (mlx.TextModel, error) {
			<-late // it does not look at its context
			return eventful{fakeModel{closed: &b.closed}, events}, nil
		}
		asked := make(chan error, 1)
		go func() {
			_, err := b.Acquire(t.Context(), "a")
			asked <- err
		}()
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- b.Close() }()
		synctest.Wait()
		close(late)
		require.NoError(t, <-closed)
		require.ErrorIs(t, <-asked, ErrClosed)
		require.EqualValues(t, 1, b.closed.Load())
	})
}

func TestTheBudgetCountsDraftsAndWorkers(t *testing.T) {
	dirs := [3]string{}
	for i := range dirs {
		dirs[i] = filepath.Join(t.TempDir(), "model[1]")
		require.NoError(t, os.Mkdir(dirs[i], 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dirs[i], "model.safetensors"), make([]byte, 100), 0o600))
	}
	r, err := New([]Model{
		{Name: "plain", Path: dirs[0]},
		{Name: "draft", Path: dirs[1], Options: []mlx.LoadOption{mlx.WithDraftModel(dirs[0])}},
		{Name: "workers", Path: dirs[2], Options: []mlx.LoadOption{mlx.WithWorkers(3), mlx.WithDraftModel(dirs[0])}},
	}, Options{})
	require.NoError(t, err)
	sizes := map[string]int64{}
	for _, s := range r.States() {
		sizes[s.Name] = s.WeightFiles
	}
	require.Equal(t, map[string]int64{"plain": 100, "draft": 200, "workers": 600}, sizes)
	require.NoError(t, r.Close())
}
