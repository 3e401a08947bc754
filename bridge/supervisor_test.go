//go:build unix

package bridge

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/engine"
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

func loadInto(t *testing.T, s *Supervisor, bytes int64) *Model {
	t.Helper()
	o := Options{Supervisor: s, QuarantineDir: t.TempDir()}
	m, err := load(t.Context(), folderOf(t, bytes), o, fakeCommand("waits"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func alive(m *Model) int { return m.pool.workers() }

func TestSupervisorEvictsTheModelThatWasUsedLongestAgo(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	a, b := loadInto(t, s, 40), loadInto(t, s, 40)
	hold(t, a, 1)()
	hold(t, b, 1)()
	hold(t, a, 1)()
	c := loadInto(t, s, 40)
	require.Equal(t, []int{1, 0, 1}, []int{alive(a), alive(b), alive(c)})
	require.EqualValues(t, 80, s.Stat().Used)
	require.EqualValues(t, 1, b.Stat().Evicted)
	require.Zero(t, b.Stat().Crashes)
	// b is usable still, and takes the place of a.
	hold(t, c, 1)()
	hold(t, b, 1)()
	require.Equal(t, []int{0, 1, 1}, []int{alive(a), alive(b), alive(c)})
	require.NoError(t, s.Close())
	require.Zero(t, s.Stat().Used)
	require.Empty(t, s.Stat().Models)
}

func TestSupervisorWaitsForAModelAtWork(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	a := loadInto(t, s, 60)
	release := hold(t, a, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	o := Options{Supervisor: s}
	_, err := load(ctx, folderOf(t, 60), o, fakeCommand("waits"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, alive(a), "a request under way is not disturbed")
	loaded := make(chan *Model)
	go func() {
		m, err := load(context.Background(), folderOf(t, 60), o, fakeCommand("waits"))
		if err != nil {
			t.Error(err)
		}
		loaded <- m
	}()
	time.Sleep(30 * time.Millisecond)
	release()
	b := <-loaded
	require.Zero(t, alive(a))
	require.NoError(t, b.Close())
}

func TestSupervisorSparesPinnedModels(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	a := loadInto(t, s, 60)
	a.Pin()
	_, err := load(t.Context(), folderOf(t, 60), Options{Supervisor: s}, fakeCommand("waits"))
	require.ErrorIs(t, err, ErrBudget)
	var budget *BudgetError
	require.ErrorAs(t, err, &budget)
	require.Equal(t, BudgetError{What: "a worker", Needed: 60, Used: 60, Budget: 100, Pinned: 60}, *budget)
	a.Unpin()
	b := loadInto(t, s, 60)
	require.Equal(t, []int{0, 1}, []int{alive(a), alive(b)})
	_, err = load(t.Context(), folderOf(t, 101), Options{Supervisor: s}, fakeCommand("waits"))
	require.ErrorIs(t, err, ErrBudget, "what never fits is not waited for")
	// The prompt cache counts too.
	_, err = load(t.Context(), folderOf(t, 10), Options{Supervisor: s, PromptCache: 95}, fakeCommand("waits"))
	require.ErrorIs(t, err, ErrBudget)
}

func TestSupervisorGetsBackWhatACrashedWorkerHad(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	m, err := load(t.Context(), folderOf(t, 60), Options{Supervisor: s, QuarantineDir: t.TempDir()}, fakeCommand("dies in mid-stream"))
	require.NoError(t, err)
	_, err = generateAll(t.Context(), m)
	require.ErrorIs(t, err, ErrQuarantined)
	_, err = drain(t.Context(), m, engine.Prompt{Text: "y"}, engine.DefaultGenerateOptions())
	require.Error(t, err)
	require.LessOrEqual(t, s.Stat().Used, int64(60))
	require.NoError(t, m.Close())
	require.Zero(t, s.Stat().Used)
}

// What a model has itself is on its way out, and so no reason to refuse its next worker.
func TestAModelOfMoreThanHalfTheBudgetCanBeReset(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	m := loadInto(t, s, 60)
	for range 3 {
		require.NoError(t, m.Reset(t.Context()))
		require.EqualValues(t, 60, s.Stat().Used)
	}
	release := hold(t, m, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Reset(ctx), context.DeadlineExceeded, "it waits for the request on the old one")
	release()
	require.NoError(t, m.Reset(t.Context()))
}

func TestARequestDuringAnIdleEndWaitsForTheNextWorker(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	o := Options{Supervisor: s, QuarantineDir: t.TempDir(), IdleTTL: 20 * time.Millisecond}
	m, err := load(t.Context(), folderOf(t, 60), o, fakeCommand("ends slowly"))
	require.NoError(t, err)
	defer m.Close()
	for range 3 {
		require.Eventually(t, func() bool {
			w := m.Stat().Workers
			return len(w) == 1 && w[0].State == "stopping"
		}, 5*time.Second, time.Millisecond)
		_, err = generateAll(t.Context(), m)
		require.NoError(t, err)
	}
}

func TestSmallCallsToAnEvictedModelEvictNobody(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	a, b := loadInto(t, s, 60), loadInto(t, s, 60)
	require.Equal(t, []int{0, 1}, []int{alive(a), alive(b)})
	metrics, err := a.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.Workers)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = a.Encode(ctx, "x", true)
	require.ErrorIs(t, err, context.DeadlineExceeded, "it waits until there is room, and makes none")
	require.Equal(t, []int{0, 1}, []int{alive(a), alive(b)})
	require.EqualValues(t, 1, a.Stat().Starts)
	metrics, err = b.Metrics(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, metrics.ActiveBytes)
	// Requests that compute make room, as before.
	hold(t, a, 1)()
	require.Equal(t, []int{1, 0}, []int{alive(a), alive(b)})
}

func TestWorkersThatCannotAllFitAreAnErrorAtOnce(t *testing.T) {
	_, err := load(t.Context(), folderOf(t, 60), Options{Supervisor: NewSupervisor(100), Workers: 2}, fakeCommand("waits"))
	require.ErrorIs(t, err, ErrBudget)
}

// A model that may not grow serves with what it has.
func TestSupervisorLetsRequestsWaitWhereNoFurtherWorkerFits(t *testing.T) {
	noLeaks(t)
	s := NewSupervisor(100)
	a := loadInto(t, s, 60)
	a.Pin()
	o := Options{Supervisor: s, QuarantineDir: t.TempDir(), Workers: 2, MinWorkers: 1, Batch: 1, IdleTTL: time.Hour}
	b, err := load(t.Context(), folderOf(t, 40), o, fakeCommand("waits"))
	require.NoError(t, err)
	release := hold(t, b, 1)
	got := make(chan error, 1)
	go func() {
		var ticket uint64
		m, err := b.pool.acquire(t.Context(), "", &ticket)
		if err == nil {
			b.pool.release(m, true)
		}
		got <- err
	}()
	time.Sleep(300 * time.Millisecond) // several tries to start a second worker
	require.Equal(t, 1, alive(b))
	require.Zero(t, b.Stat().Crashes)
	require.EqualValues(t, 100, s.Stat().Used)
	release()
	require.NoError(t, <-got)
	require.NoError(t, b.Close())
}
