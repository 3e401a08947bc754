//go:build unix

package bridge

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// What the user's funcs do, ending their goroutine as t.FailNow does or never returning, is no matter to a model.

func TestAMailboxOutlivesItsFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int64
		b := newEvents(func(e engine.Event) {
			got = append(got, e.Done)
			if e.Done%2 == 0 {
				runtime.Goexit()
			}
		})
		for i := range int64(6) {
			b.put(engine.Event{Kind: engine.EventLoad, Done: i})
			synctest.Wait()
		}
		b.close()
		require.Equal(t, []int64{0, 1, 2, 3, 4, 5}, got)
		b.put(engine.Event{Kind: engine.EventLoad, Done: 6})
		synctest.Wait()
		require.Len(t, got, 6)
	})
}

func TestAMailboxLeavesOutProgressAndKeepsWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []engine.Event
		goOn := make(chan struct{})
		b := newEvents(func(e engine.Event) {
			got = append(got, e)
			<-goOn
		})
		first := engine.Event{Kind: engine.EventLoad, Done: 0}
		b.put(first)
		synctest.Wait()
		restart := engine.Event{Kind: engine.EventRestart, Err: context.Canceled}
		b.put(engine.Event{Kind: engine.EventLoad, Done: 1})
		b.put(engine.Event{Kind: engine.EventLoad, Done: 2})
		b.put(restart)
		b.put(restart)
		close(goOn)
		b.close()
		require.Equal(t, []engine.Event{first, {Kind: engine.EventLoad, Done: 2}, restart, restart}, got)
	})
}

// oddHandler is a slog.Handler that does with every record what a test wants.
type oddHandler struct {
	slog.Handler
	handle func(slog.Record)
}

func (h oddHandler) Handle(_ context.Context, r slog.Record) error {
	h.handle(r)
	return nil
}
func (h oddHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h oddHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h oddHandler) WithGroup(string) slog.Handler            { return h }

func TestABlockedLoggerBlocksNoWorker(t *testing.T) {
	noLeaks(t)
	goOn := make(chan struct{})
	m := loadFake(t, "floods stderr", func(o *Options) {
		o.Logger = slog.New(oddHandler{handle: func(slog.Record) { <-goOn }})
	})
	text, err := generateAll(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "one two", text)
	close(goOn)
	require.NoError(t, m.Close())
}

func TestALoggerThatEndsItsGoroutineEndsNothingElse(t *testing.T) {
	noLeaks(t)
	var mu sync.Mutex
	var got []string
	m := loadFake(t, "counts and dies once", func(o *Options) {
		o.Logger = slog.New(oddHandler{handle: func(r slog.Record) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.Message)
			runtime.Goexit()
		}})
		o.Events = func(engine.Event) { runtime.Goexit() }
	})
	text, err := generateAll(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "0 1 2 3 4 5 6 7 8 9 ", text)
	require.NoError(t, m.Close())
	require.True(t, slices.Contains(got, "python worker ended unasked"), "%q", got)
}
