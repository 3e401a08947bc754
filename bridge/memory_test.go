//go:build unix

package bridge

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// folderOf makes a folder that looks like a checkpoint of so many bytes.
func folderOf(t *testing.T, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(bytes))
	require.NoError(t, f.Close())
	return dir
}

// loadIn loads a model of fake workers that share a memory budget.
func loadIn(t *testing.T, registry *admission.Registry, dir string, o Options, fake string) *Model {
	t.Helper()
	return loadCommandIn(t, registry, dir, o, fakeCommand(fake))
}

func loadCommandIn(t *testing.T, registry *admission.Registry, dir string, o Options, cmd command) *Model {
	t.Helper()
	o.QuarantineDir = t.TempDir()
	memory := registry.Join(dir)
	workers := max(1, o.MinWorkers)
	require.NoError(t, memory.BeginLoad(t.Context(), int64(workers)*(modelfiles.Need(dir)+o.PromptCache), nil))
	m, err := load(admission.NewContext(t.Context(), memory), dir, o, cmd)
	require.NoError(t, err)
	rememberDeaths(m)
	memory.EndLoad()
	t.Cleanup(func() {
		require.NoError(t, m.Close())
		require.Zero(t, memory.Held())
		memory.Leave()
	})
	return m
}

func alive(m *Model) int { return m.pool.workers() }

func TestADeadWorkersMemoryIsGivenBack(t *testing.T) {
	noLeaks(t)
	registry := admission.New(admission.Options{Budget: 100})
	m := loadIn(t, registry, folderOf(t, 60), Options{}, "dies in mid-stream")
	_, err := generateAll(t.Context(), m)
	require.ErrorIs(t, err, ErrQuarantined)
	_, err = drain(t.Context(), m, engine.Prompt{Text: "y"}, engine.DefaultGenerateOptions())
	require.Error(t, err)
	require.LessOrEqual(t, registry.Stat().Used, int64(60))
	require.NoError(t, m.Close())
	require.Zero(t, registry.Stat().Used)
}

// What a model has itself is on its way out, and so no reason to refuse its next worker.
func TestAModelOfMoreThanHalfTheBudgetCanBeReset(t *testing.T) {
	noLeaks(t)
	registry := admission.New(admission.Options{Budget: 100})
	dir := folderOf(t, 60)
	m := loadIn(t, registry, dir, Options{}, "waits")
	for range 3 {
		require.NoError(t, m.Reset(t.Context()))
		require.EqualValues(t, 60, registry.Stat().Used)
	}
	release := hold(t, m, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Reset(ctx), context.DeadlineExceeded, "it waits for the request on the old one")
	release()
	// Other weights have another size.
	require.NoError(t, os.Truncate(filepath.Join(dir, "model.safetensors"), 90))
	require.NoError(t, m.Reset(t.Context()))
	require.EqualValues(t, 90, registry.Stat().Used)
	require.EqualValues(t, 90, m.Stat().Workers[0].ClaimedBytes)
}

func TestARequestDuringAnIdleEndWaitsForTheNextWorker(t *testing.T) {
	noLeaks(t)
	registry := admission.New(admission.Options{Budget: 100})
	may := filepath.Join(t.TempDir(), "end")
	cmd := fakeCommand("ends when it may", onceVariable+"="+may)
	cmd.down = &steps{ask: aWhile} // or a worker that does not end is ended before the test has seen it
	m := loadCommandIn(t, registry, folderOf(t, 60), Options{IdleTTL: 20 * time.Millisecond}, cmd)
	ending := func() (pid int) { // the worker that was told to end, and does not yet
		require.Eventually(t, func() bool {
			w := m.Stat().Workers
			if len(w) != 1 || w[0].State != "stopping" {
				return false
			}
			pid = w[0].PID
			return true
		}, aWhile, time.Millisecond)
		return pid
	}
	for range 3 {
		old := ending()
		result := make(chan error, 1)
		go func() {
			_, err := generateAll(t.Context(), m)
			result <- err
		}()
		require.Eventually(t, func() bool { return m.Stat().Waiting == 1 }, aWhile, time.Millisecond)
		require.NoError(t, os.WriteFile(mayEnd(may, old), nil, 0o600))
		require.NoError(t, <-result)
	}
	require.NoError(t, os.WriteFile(mayEnd(may, ending()), nil, 0o600))
}

// A model that may not grow serves with what it has, and says what it waits for.
func TestRequestsWaitWhereNoFurtherWorkerFits(t *testing.T) {
	noLeaks(t)
	registry := admission.New(admission.Options{Budget: 100})
	other := registry.Join("other").Claim(60, admission.Needed)
	waits := make(chan engine.Event, 10)
	o := Options{Workers: 2, MinWorkers: 1, Batch: 1, IdleTTL: time.Hour, Events: func(e engine.Event) {
		if e.Kind == engine.EventWait {
			waits <- e
		}
	}}
	m := loadIn(t, registry, folderOf(t, 40), o, "waits")
	release := hold(t, m, 1)
	got := make(chan error, 1)
	go func() {
		var ticket uint64
		x, err := m.pool.acquire(t.Context(), "", &ticket)
		if err == nil {
			m.pool.release(x, true)
		}
		got <- err
	}()
	require.Contains(t, (<-waits).Label, "waits for 40 bytes of memory, 0 bytes of 100 bytes are free")
	require.Equal(t, 1, alive(m))
	require.Zero(t, m.Stat().Crashes)
	require.EqualValues(t, 100, registry.Stat().Used)
	other.Release()
	require.NoError(t, <-got, "a second worker serves it")
	require.Equal(t, 2, alive(m))
	release()
}

// A worker that holds more than was expected, for the KV of long requests, counts with that.
func TestAWorkerCountsWithWhatItHolds(t *testing.T) {
	noLeaks(t)
	registry := admission.New(admission.Options{Budget: 100})
	m := loadIn(t, registry, folderOf(t, 5), Options{}, "waits") // the fake says 7 with its heartbeats
	require.Eventually(t, func() bool { return registry.Stat().Used == 7 }, aWhile, time.Millisecond)
	require.Equal(t, 1, alive(m))
}
