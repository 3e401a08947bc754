package bridge

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func loadReal(t *testing.T, workers int) *Model {
	t.Helper()
	noLeaks(t)
	m, err := Load(t.Context(), testenv.Model(t), Options{Python: testenv.Python(t), Workers: workers})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func longOptions(n int) engine.GenerateOptions {
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, n
	return o
}

func collect(ctx context.Context, m *Model, prompt string, o engine.GenerateOptions) (ids []int32, err error) {
	for tok, e := range m.Generate(ctx, engine.Prompt{Text: prompt}, o) {
		if e != nil {
			return ids, e
		}
		ids = append(ids, tok.ID)
	}
	return ids, nil
}

func TestRealStreamsRunSideBySideWithoutTouchingEachOther(t *testing.T) {
	m := loadReal(t, 1)
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
			if len(got) != len(alone) || !equal(got, alone) {
				t.Errorf("in company %v, alone %v", got, alone)
			}
		})
	}
	wg.Wait()
}

func equal(a, b []int32) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestRealSlowReaderSlowsOnlyItsOwnStream(t *testing.T) {
	m := loadReal(t, 1)
	taken := 0
	for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, longOptions(400)) {
		require.NoError(t, err)
		if taken++; taken > 1 {
			continue
		}
		// This stream's reader stands still; the worker may run ahead by its credit and no further.
		for range 3 {
			ids, err := collect(t.Context(), m, "Where", longOptions(100))
			require.NoError(t, err)
			require.Len(t, ids, 100)
		}
	}
	require.Equal(t, 400, taken)
}

func TestRealCancelStopsTheWork(t *testing.T) {
	m := loadReal(t, 1)
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
	// The worker is free again: two thousand tokens would take seconds.
	start := time.Now()
	_, err := collect(t.Context(), m, "Please", longOptions(2))
	require.NoError(t, err)
	require.Less(t, time.Since(start), time.Second)
}

func TestRealWorkerKilledInMidStreamIsReplaced(t *testing.T) {
	m := loadReal(t, 1)
	n, last := 0, error(nil)
	for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, longOptions(2000)) {
		last = err
		if n++; n == 10 {
			require.NoError(t, syscall.Kill(m.pool.members[0].worker.process.cmd.Process.Pid, syscall.SIGKILL))
		}
	}
	require.ErrorIs(t, last, ErrWorkerStopped)
	require.ErrorContains(t, last, "signal: killed")
	ids, err := collect(t.Context(), m, "Please", longOptions(5))
	require.NoError(t, err)
	require.Len(t, ids, 5)
}

func TestRealWorkersShareAList(t *testing.T) {
	m := loadReal(t, 2)
	texts := make([]string, 0, 600)
	for len(texts) < 600 {
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
	require.EqualValues(t, 600, metrics.Classified)
	require.Positive(t, metrics.ActiveBytes)
	bad := append(append([]string{}, texts...), strings.Repeat("word ", 3000))
	_, err = m.Classify(t.Context(), bad, o)
	var tooLong *engine.ContextLengthError
	require.ErrorAs(t, err, &tooLong)
	require.ErrorContains(t, err, "text 600:")
}

func TestRealErrorsHaveTheirTypes(t *testing.T) {
	m := loadReal(t, 1)
	_, err := collect(t.Context(), m, strings.Repeat("word ", 3000), longOptions(1))
	var tooLong *engine.ContextLengthError
	require.ErrorAs(t, err, &tooLong)
	require.Equal(t, 2048, tooLong.Limit)
	o := longOptions(5)
	o.StopTokens = []int32{100000}
	var option *engine.OptionError
	_, err = collect(t.Context(), m, "x", o)
	require.ErrorAs(t, err, &option)
	_, err = m.RenderChat(t.Context(), []engine.Message{{Role: "assistant", Content: "x"}})
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
	m := loadReal(t, 1)
	w := m.pool.members[0].worker
	require.NoError(t, w.process.stdin.Close()) // what the kernel does when the supervisor dies
	select {
	case <-w.process.exited:
	case <-time.After(2 * time.Second):
		t.Fatal("the worker lives without a supervisor")
	}
}
