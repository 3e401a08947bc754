//go:build unix

package bridge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// loadReal loads the trained model, or the one in a folder, in real workers.
func loadReal(t *testing.T, change []func(*Options), dir ...string) *Model {
	t.Helper()
	noLeaks(t)
	o := Options{Python: testenv.Python(t), QuarantineDir: t.TempDir()}
	for _, f := range change {
		f(&o)
	}
	path := testenv.Model(t)
	if len(dir) > 0 {
		path = dir[0]
	}
	m, err := Load(t.Context(), path, o)
	require.NoError(t, err)
	rememberDeaths(m)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func workers(n int) []func(*Options) { return []func(*Options){func(o *Options) { o.Workers = n }} }

// pid is the process of the model's first worker.
func pid(m *Model) int { return m.Stat().Workers[0].PID }

// running reports whether a process is there and not a zombie.
func running(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func lines(r io.Reader) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(r); s.Scan() && yield(s.Text()); {
		}
	}
}

func longOptions(n int) engine.GenerateOptions {
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, n
	return o
}

func collect(ctx context.Context, m *Model, prompt string, o engine.GenerateOptions) (ids []int32, err error) {
	return drain(ctx, m, engine.Prompt{Text: prompt}, o)
}

// drain reads a stream to its end.
func drain(ctx context.Context, m *Model, prompt engine.Prompt, o engine.GenerateOptions) (ids []int32, err error) {
	for tok, e := range m.Generate(ctx, prompt, o) {
		if e != nil {
			return ids, e
		}
		ids = append(ids, tok.ID)
	}
	return ids, nil
}

// What one healthy worker shows, one after the other: starting it takes longer than most of this. What ends a worker, or wants
// other options, has workers of its own.
func TestRealOneWorker(t *testing.T) {
	m := loadReal(t, nil)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Model)
	}{
		{"streams run side by side without touching each other", streamsSideBySide},
		{"a slow reader slows only its own stream", slowReader},
		{"cancel stops the work", cancelStopsTheWork},
		{"errors have their types", errorsHaveTheirTypes},
		{"solo streams beside others", soloStreams},
		{"segments are the text", segmentsAreTheText},
		{"no content ends a worker", noContentEndsAWorker},
		{"hundreds of cancels", manyCancels},
		{"it ends cleanly", endsCleanly}, // the last one
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, m) })
	}
}

func streamsSideBySide(t *testing.T, m *Model) {
	o := longOptions(80)
	o.Temperature, o.Seed, o.HasSeed = 1.2, 5, true
	alone, err := collect(t.Context(), m, "Please check", o)
	require.NoError(t, err)
	require.Len(t, alone, 80)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := collect(t.Context(), m, "Please check", o)
			if err != nil {
				t.Error(err)
			}
			if !equal(got, alone) {
				t.Errorf("beside others %v, alone %v", got, alone)
			}
		})
	}
	wg.Wait()
}

func equal(a, b []int32) bool { return slices.Equal(a, b) }

func slowReader(t *testing.T, m *Model) {
	taken := 0
	for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, longOptions(200)) {
		require.NoError(t, err)
		if taken++; taken > 1 {
			continue
		}
		// This stream's reader has stopped reading; the worker may run ahead by its credit and no further.
		for range 3 {
			ids, err := collect(t.Context(), m, "Where", longOptions(50))
			require.NoError(t, err)
			require.Len(t, ids, 50)
		}
	}
	require.Equal(t, 200, taken)
}

func cancelStopsTheWork(t *testing.T, m *Model) {
	stopped := m.Stat().Stops.Count
	ctx, cancel := context.WithCancel(t.Context())
	n, last := 0, error(nil)
	for _, err := range m.Generate(ctx, engine.Prompt{Text: "Please"}, longOptions(2000)) {
		last = err
		if n++; n == 10 {
			cancel()
		}
	}
	cancel()
	require.ErrorIs(t, last, context.Canceled)
	for range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, longOptions(2000)) {
		break
	}
	// The worker says that it has stopped both, and is free. It runs ahead of a reader by its credit only, so neither was done.
	require.Eventually(t, func() bool {
		s := m.Stat()
		return s.Stops.Count == stopped+2 && s.Workers[0].Active == 0 && s.Workers[0].Phase == "idle"
	}, aWhile, time.Millisecond)
	_, err := collect(t.Context(), m, "Please", longOptions(2))
	require.NoError(t, err)
}

func TestRealWorkersShareAList(t *testing.T) {
	m := loadReal(t, workers(2))
	texts := make([]string, 0, 40)
	for len(texts) < 40 {
		texts = append(texts, "goal", "soup with bread")
	}
	o := engine.ClassifyOptions{Labels: []string{"sport", "food"}, Prompt: engine.DefaultLabelPrompt}
	results, err := m.Classify(t.Context(), texts, o)
	require.NoError(t, err)
	for i := range results {
		require.Equal(t, results[i%2], results[i], "text %d", i)
	}
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, metrics.Workers)
	require.EqualValues(t, 40, metrics.Classified)
	require.Positive(t, metrics.ActiveBytes)
	bad := append(append([]string{}, texts...), strings.Repeat("word ", 3000))
	_, err = m.Classify(t.Context(), bad, o)
	var tooLong *engine.ContextLengthError
	require.ErrorAs(t, err, &tooLong)
	require.ErrorContains(t, err, "text 40:")
}

func errorsHaveTheirTypes(t *testing.T, m *Model) {
	_, err := collect(t.Context(), m, strings.Repeat("word ", 3000), longOptions(1))
	var tooLong *engine.ContextLengthError
	require.ErrorAs(t, err, &tooLong)
	require.Equal(t, 2048, tooLong.Limit)
	o := longOptions(5)
	o.StopTokens = []int32{100000}
	var option *engine.OptionError
	_, err = collect(t.Context(), m, "x", o)
	require.ErrorAs(t, err, &option)
	_, err = m.RenderChat(t.Context(), []engine.Message{{Role: "assistant", Content: "x"}}, engine.GenerateOptions{})
	require.ErrorContains(t, err, "roles must alternate")
	_, err = m.Encode(t.Context(), "\xff", true)
	require.ErrorIs(t, err, engine.ErrInvalidUTF8)
	require.Equal(t, 1, m.pool.workers(), "the worker lives on")
}

func TestRealLoadErrors(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"no folder": {os.RemoveAll, "not a model folder"},
		"unknown architecture": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type":"rwkv9"}`), 0o644)
		}, "rwkv9"},
		"no weights": {func(dir string) error { return os.Remove(filepath.Join(dir, "model.safetensors")) }, "safetensors"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			dir := testenv.CopyModel(t)
			require.NoError(t, c.damage(dir))
			_, err := Load(t.Context(), dir, Options{Python: testenv.Python(t)})
			var remote *RemoteError
			require.ErrorAs(t, err, &remote)
			require.Equal(t, "load_failed", remote.Code)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestRealWorkerEndsWhenItsSupervisorIsGone(t *testing.T) {
	m := loadReal(t, nil)
	w := m.pool.members[0].worker()
	require.NoError(t, w.process.stdin.Close()) // what the kernel does when the supervisor dies
	select {
	case <-w.process.exited:
	case <-time.After(aWhile):
		t.Fatal("the worker lives without a supervisor")
	}
}
