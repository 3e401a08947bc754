package native

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// badRing and badSlotted are KV caches that cannot be freed without trouble, of the CPU kernels and of the others.
type badRing struct {
	kv.Ring
	trouble func() error
}

func (c badRing) Free() error { return errors.Join(c.Ring.Free(), c.trouble()) }

type badSlotted struct {
	kv.Slotted
	trouble func() error
}

func (c badSlotted) Free() error { return errors.Join(c.Slotted.Free(), c.trouble()) }

var (
	errFree     = errors.New("the cache cannot be freed")
	failFree    = func() error { return errFree }
	panicInFree = func() error { panic("the cache is broken") }
)

// breakStreams makes the streams under way have a cache that cannot be freed well.
func breakStreams(t *testing.T, m *Model, trouble func() error) {
	t.Helper()
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		require.NotEmpty(t, m.scheduler.Streams)
		for _, st := range m.scheduler.Streams {
			switch c := st.State.Caches[0].(type) {
			case kv.Ring:
				st.State.Caches[0] = badRing{c, trouble}
			case kv.Slotted:
				st.State.Caches[0] = badSlotted{c, trouble}
			}
		}
		return nil
	}))
}

func longAnswer() engine.GenerateOptions {
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 400
	return o
}

// within fails the test if work does not end.
func within(t *testing.T, work func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Minute):
		t.Fatal("it does not end")
	}
}

func TestAReaderThatLeavesIsNotCalledAgain(t *testing.T) {
	m := open(t)
	for name, trouble := range map[string]func() error{"an error": failFree, "a panic": panicInFree} {
		require.NotPanics(t, func() {
			read := 0
			for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, longAnswer()) {
				require.NoError(t, err, name)
				breakStreams(t, m, trouble)
				read++
				break
			}
			require.Equal(t, 1, read, name)
		}, name)
	}
	ids, _ := collect(t, m, "Please", nil)
	require.Len(t, ids, 256, "the model goes on")
}

// A reader that stays is told of what goes wrong at the end.
func TestAFailureToFreeIsTold(t *testing.T) {
	m := open(t)
	for want, trouble := range map[string]func() error{errFree.Error(): failFree, "the cache is broken": panicInFree} {
		var last error
		read := 0
		o := longAnswer()
		o.MaxTokens = 30
		for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, o) {
			if read++; read == 1 {
				breakStreams(t, m, trouble)
			}
			last = err
		}
		require.ErrorContains(t, last, want)
	}
}

// broken is a model whose passes panic.
type broken struct{ decoder.Architecture }

func (broken) Hidden(*mlxc.Scope, *mlxc.Array, *kv.Pass) *mlxc.Array { panic("the pass is broken") }

// lockstep lets several goroutines go on only together.
type lockstep struct {
	mu         sync.Mutex // guards what follows
	next       sync.Cond
	taking     int // part
	here, turn int
}

func newLockstep(n int) *lockstep {
	l := &lockstep{taking: n}
	l.next.L = &l.mu
	return l
}

// meet waits for all others who take part.
func (l *lockstep) meet() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here++
	for turn := l.turn; !l.complete() && turn == l.turn; {
		l.next.Wait()
	}
}

// leave takes part no longer.
func (l *lockstep) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taking--
	l.complete()
}

func (l *lockstep) complete() bool {
	if l.here < l.taking || l.here == 0 {
		return false
	}
	l.here = 0
	l.turn++
	l.next.Broadcast()
	return true
}

// paused starts streams whose readers wait after their first token until goOn is called, which returns their answers. From then on each reads its
// next token when all have read theirs, so that none is through before others begin.
func paused(t *testing.T, m *Model, n int) (goOn func() []answer) {
	t.Helper()
	answers, started, reading := make([]answer, n), make(chan struct{}), make(chan struct{})
	together := newLockstep(n)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			defer together.leave()
			for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, longAnswer()) {
				if answers[i].err = err; err != nil {
					break
				}
				if answers[i].ids = append(answers[i].ids, tok.ID); len(answers[i].ids) == 1 {
					started <- struct{}{}
					<-reading
				}
				together.meet()
			}
		})
	}
	for range answers {
		<-started
	}
	return func() []answer {
		close(reading)
		within(t, all.Wait)
		return answers
	}
}

// A pass panics, and then the streams cannot even be freed: each reader gets its error, and the model goes on.
func TestAPanicWhileFreeingEndsEveryStream(t *testing.T) {
	withAndWithoutSharedKV(t, func(t *testing.T, m *Model) {
		arch := m.network.Arch
		goOn := paused(t, m, 3)
		breakStreams(t, m, panicInFree)
		require.NoError(t, m.owner.Do(t.Context(), func() error { m.network.Arch = broken{arch}; return nil }))
		for _, a := range goOn() {
			var panicked *mlxc.PanicError
			require.ErrorAs(t, a.err, &panicked)
		}
		require.NoError(t, m.owner.Do(t.Context(), func() error { m.network.Arch = arch; return nil }))
		ids, _ := collect(t, m, "Please", nil)
		require.Len(t, ids, 256)
	})
}

// What fails outside of a pass ends all streams; that some cannot be freed holds up neither the others nor the scheduler.
func TestAPanicBetweenPassesEndsEveryStream(t *testing.T) {
	withAndWithoutSharedKV(t, func(t *testing.T, m *Model) {
		goOn := paused(t, m, 3)
		breakStreams(t, m, panicInFree)
		require.NoError(t, m.owner.Do(t.Context(), func() error {
			m.scheduler.FailAll(errFree)
			require.Empty(t, m.scheduler.Streams)
			return nil
		}))
		for _, a := range goOn() {
			require.ErrorIs(t, a.err, errFree)
			require.ErrorContains(t, a.err, "the cache is broken")
		}
		ids, _ := collect(t, m, "Please", nil)
		require.Len(t, ids, 256)
	})
}

func TestCloseEndsWhereAStreamCannotBeFreed(t *testing.T) {
	withAndWithoutSharedKV(t, func(t *testing.T, m *Model) {
		goOn := paused(t, m, 3)
		breakStreams(t, m, panicInFree)
		var err error
		within(t, func() { err = m.Close() })
		require.ErrorContains(t, err, "the cache is broken")
		m.failure = nil // it was seen: what Close leaves behind is looked at when the test ends
		for _, a := range goOn() {
			require.ErrorIs(t, a.err, engine.ErrClosed)
		}
	})
}
