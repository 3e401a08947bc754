package mlx_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// size is what the test's model counts with.
func size(t *testing.T, options ...mlx.LoadOption) int64 {
	t.Helper()
	h, err := mlx.NewHost(mlx.HostOptions{}, mlx.HostedModel{Name: "m", Path: testenv.Model(t), Options: options})
	require.NoError(t, err)
	l, err := h.Acquire(t.Context(), "m")
	require.NoError(t, err)
	l.Release()
	used := h.State().Used
	require.Positive(t, used)
	require.NoError(t, h.Close())
	require.Zero(t, h.State().Used)
	return used
}

func TestAHostSharesOneBudgetAmongBothEngines(t *testing.T) {
	python := []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))}
	log := &testenv.Log{}
	one := size(t)
	h, err := mlx.NewHost(mlx.HostOptions{Budget: one * 7 / 4, Logger: slog.New(slog.NewTextHandler(log, nil))},
		mlx.HostedModel{Name: "native", Path: testenv.Model(t), Options: []mlx.LoadOption{mlx.WithEngine(mlx.EngineNative)}},
		mlx.HostedModel{Name: "python", Path: testenv.Model(t), Options: python})
	require.NoError(t, err)
	generate := func(l *mlx.Lease) {
		_, err := mlx.Collect(l.Model.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(3), mlx.WithSampling(mlx.IgnoreEOS())))
		require.NoError(t, err)
	}
	first, err := h.Acquire(t.Context(), "native")
	require.NoError(t, err)
	require.Equal(t, mlx.EngineNative, first.Model.Info().Engine)
	generate(first)
	waits := make(chan mlx.Wait, 10)
	got := make(chan *mlx.Lease)
	go func() {
		l, err := h.Acquire(t.Context(), "python", mlx.OnWait(func(w mlx.Wait) { waits <- w }))
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	wait := <-waits
	require.Equal(t, mlx.WaitMemory, wait.Reason)
	require.Equal(t, []string{"native"}, wait.Models)
	require.Len(t, h.State().Waits, 1)
	first.Release()
	second := <-got
	require.Equal(t, mlx.EnginePython, second.Model.Info().Engine)
	require.Len(t, second.Model.(mlx.Supervised).Stat().Workers, 1, "a host's models have the methods of their engine")
	generate(second)
	state := h.State() // one look: what a worker holds changes with its heartbeats
	require.Equal(t, mlx.PhaseCold, state.Models[0].Phase)
	require.EqualValues(t, 1, state.Models[0].Evictions)
	require.Equal(t, mlx.PhaseReady, state.Models[1].Phase)
	require.Positive(t, state.Models[1].Held)
	require.Equal(t, state.Used, state.Models[1].Held)
	// A model that the caller loads waits in the same queue, and says so.
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan mlx.Event, 10)
	failed := make(chan error)
	go func() {
		_, err := mlx.LoadModelContext(ctx, testenv.Model(t), mlx.WithHost(h), mlx.WithEvents(func(e mlx.Event) { events <- e }))
		failed <- err
	}()
	require.Contains(t, (<-events).Label, "held by: python")
	cancel()
	err = <-failed
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "held by: python")
	second.Release()
	own, err := mlx.LoadModel(testenv.Model(t), mlx.WithHost(h))
	require.NoError(t, err)
	require.Equal(t, mlx.PhaseCold, h.State().Models[1].Phase)
	require.NoError(t, own.Close())
	require.Zero(t, h.State().Used)
	require.NoError(t, h.Close())
	_, err = h.Acquire(t.Context(), "native")
	require.ErrorIs(t, err, mlx.ErrHostClosed)
	require.Contains(t, log.String(), `msg="model waits" model=python for="model python waits for`)
	require.Contains(t, log.String(), `msg="model is being closed" model=native evicted=true for=python`)
}

// Drafts, adapters, workers and prompt caches count; a draft that two models share counts for both, since each loads it.
func TestAHostCountsAllThatAModelLoads(t *testing.T) {
	folder := func(bytes int) string {
		dir := filepath.Join(t.TempDir(), "model[1]")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), make([]byte, bytes), 0o600))
		return dir
	}
	plain, draft, adapter := folder(100), folder(10), folder(1)
	python := mlx.WithEngine(mlx.EnginePython)
	for name, c := range map[string]struct {
		options []mlx.LoadOption
		want    int64
	}{
		"plain":          {nil, 100},
		"draft":          {[]mlx.LoadOption{mlx.WithDraftModel(draft)}, 110},
		"adapter":        {[]mlx.LoadOption{mlx.WithAdapter(adapter)}, 101},
		"prompt cache":   {[]mlx.LoadOption{mlx.WithPromptCache(1000)}, 1100},
		"workers":        {[]mlx.LoadOption{mlx.WithPython(mlx.Workers(3)), mlx.WithDraftModel(draft)}, 330},
		"fewest workers": {[]mlx.LoadOption{python, mlx.WithPython(mlx.Workers(3), mlx.IdleTTL(time.Hour)), mlx.WithPromptCache(1000)}, 1100},
		"shadow":         {[]mlx.LoadOption{mlx.WithAdapter(adapter), mlx.WithShadow(1, mlx.WithPromptCache(1000))}, 101 + 1101},
	} {
		h, err := mlx.NewHost(mlx.HostOptions{Budget: 50}, mlx.HostedModel{Name: name, Path: plain, Options: c.options})
		require.NoError(t, err)
		_, err = h.Acquire(t.Context(), name)
		var budget *mlx.BudgetError
		require.ErrorAs(t, err, &budget)
		require.Equal(t, c.want, budget.Needed, name)
		require.ErrorIs(t, err, mlx.ErrBudget)
		require.NoError(t, h.Close())
	}
}

// A model that is named as on the hub has the size of what lies in the cache; the parts of a split GGUF model count together.
func TestAHostKnowsTheWeightFilesOfANameOnTheHub(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	put := func(repo string, bytes int) {
		dir := filepath.Join(cache, "models--org--"+repo)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "refs"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "refs", "main"), []byte("abc"), 0o600))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "snapshots", "abc"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "snapshots", "abc", "model.safetensors"), make([]byte, bytes), 0o600))
	}
	put("small", 100)
	put("draft", 10)
	h, err := mlx.NewHost(mlx.HostOptions{},
		mlx.HostedModel{Name: "a", Path: "org/small"},
		mlx.HostedModel{Name: "b", Path: "org/small@main", Options: []mlx.LoadOption{
			mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Workers(2)), mlx.WithDraftModel("org/draft")}},
		mlx.HostedModel{Name: "c", Path: "org/absent"})
	require.NoError(t, err)
	defer h.Close()
	var sizes []int64
	for _, m := range h.State().Models {
		sizes = append(sizes, m.WeightFiles)
	}
	require.Equal(t, []int64{100, 220, 0}, sizes)
}

// Close returns while the func that is told events is in the middle of one, and asks the host for its state.
func TestAHostClosesWhileEventsAreUnderWay(t *testing.T) {
	var h *mlx.Host
	begun, closing := make(chan struct{}), make(chan struct{})
	var once sync.Once
	told := func(string, mlx.Event) {
		once.Do(func() { close(begun) })
		<-closing
		h.State()
	}
	h, err := mlx.NewHost(mlx.HostOptions{Budget: 1 << 30, Events: told}, mlx.HostedModel{
		Name: "m", Path: testenv.Model(t), Options: []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))},
	})
	require.NoError(t, err)
	l, err := h.Acquire(t.Context(), "m")
	require.NoError(t, err)
	python, ok := l.Model.(mlx.Supervised)
	require.True(t, ok)
	worker, err := os.FindProcess(python.Stat().Workers[0].PID)
	require.NoError(t, err)
	require.NoError(t, worker.Kill()) // which is told
	<-begun
	done := make(chan error, 1)
	go func() { done <- h.Close() }()
	for err == nil { // it has begun when nothing is given out any more
		var again *mlx.Lease
		if again, err = h.Acquire(t.Context(), "m"); err == nil {
			again.Release()
		}
	}
	require.ErrorIs(t, err, mlx.ErrHostClosed)
	close(closing)
	require.NoError(t, <-done)
	l.Release()
}

func TestAHostRefusesWhatMakesNoSense(t *testing.T) {
	h, err := mlx.NewHost(mlx.HostOptions{Budget: 1 << 30}, mlx.HostedModel{Name: "broken", Path: t.TempDir()})
	require.NoError(t, err)
	defer h.Close()
	for name, m := range map[string]mlx.HostedModel{
		"HostedModel.Name": {Path: "x"},
		"WithMemoryBudget": {Name: "x", Options: []mlx.LoadOption{mlx.WithMemoryBudget(1)}},
		"WithHost":         {Name: "x", Options: []mlx.LoadOption{mlx.WithHost(h)}},
	} {
		requireOption(t, h.Add(m), name)
	}
	require.ErrorContains(t, h.Add(mlx.HostedModel{Name: "broken"}), "two models")
	_, err = mlx.NewHost(mlx.HostOptions{Budget: -1})
	requireOption(t, err, "HostOptions.Budget")
	_, err = mlx.NewHost(mlx.HostOptions{IdleTTL: -1})
	requireOption(t, err, "HostOptions.IdleTTL")
	_, err = mlx.LoadModel(testenv.Model(t), mlx.WithHost(h), mlx.WithMemoryBudget(1<<30))
	requireOption(t, err, "WithMemoryBudget")
	_, err = h.Acquire(t.Context(), "broken")
	require.ErrorContains(t, err, "not a model folder")
	require.Equal(t, mlx.PhaseFailed, h.State().Models[0].Phase)
	require.Zero(t, h.State().Used)
	_, err = h.Path("nobody")
	var unknown *mlx.UnknownModelError
	require.ErrorAs(t, err, &unknown)
}

func TestAModelsOwnBudgetLimitsItsWorkers(t *testing.T) {
	one := size(t)
	python := []mlx.LoadOption{mlx.WithPython(mlx.Interpreter(testenv.Python(t))), mlx.WithMemoryBudget(one * 3 / 2)}
	_, err := mlx.LoadModel(testenv.Model(t), append(python, mlx.WithPython(mlx.Workers(2)))...)
	require.ErrorIs(t, err, mlx.ErrBudget)
	m := load(t, testenv.Model(t), append(python, mlx.WithPython(mlx.Workers(2), mlx.MinWorkers(1)), mlx.WithBatch(1))...)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			_, err := mlx.Collect(m.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(20), mlx.WithSampling(mlx.IgnoreEOS())))
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p, ok := m.(mlx.Supervised)
	require.True(t, ok)
	require.EqualValues(t, 1, p.Stat().Starts)
}

// One model with three adapters, no two of which fit at once: each answers as it does alone, whichever was loaded before it.
func TestAHostSwapsAdapters(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "train.jsonl"), []byte(`{"text": "Where can I buy a train ticket to Porto?"}`+"\n"), 0o600))
	models := []mlx.HostedModel{{Name: "plain", Path: testenv.Model(t)}}
	for i, name := range []string{"first", "second"} {
		o := mlx.DefaultTrainOptions()
		o.Data, o.Out, o.Iterations, o.BatchSize, o.LearningRate, o.Seed, o.EvalEvery, o.SaveEvery = dir, filepath.Join(dir, name), 3+i, 1, 0.01, uint64(i), 0, 100
		_, err := mlx.Train(t.Context(), testenv.Model(t), o)
		require.NoError(t, err)
		models = append(models, mlx.HostedModel{Name: name, Path: testenv.Model(t), Options: []mlx.LoadOption{mlx.WithAdapter(o.Out)}})
	}
	h, err := mlx.NewHost(mlx.HostOptions{Budget: size(t) * 7 / 4}, models...)
	require.NoError(t, err)
	defer func() { require.NoError(t, h.Close()) }()
	said := map[string]string{}
	for round := range 3 {
		for i := range models {
			m := models[(i*2+round)%3]
			l, err := h.Acquire(t.Context(), m.Name)
			require.NoError(t, err)
			c, err := mlx.Collect(l.Model.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(8), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithOutput(mlx.LogProbs())))
			require.NoError(t, err)
			l.Release()
			text := fmt.Sprint(c.Text, c.Tokens[0].LogProb)
			if before, ok := said[m.Name]; ok {
				require.Equal(t, before, text, m.Name)
			}
			said[m.Name] = text
		}
	}
	require.NotEqual(t, said["plain"], said["first"])
	require.NotEqual(t, said["plain"], said["second"])
	require.NotEqual(t, said["first"], said["second"])
	loads := int64(0)
	for _, s := range h.State().Models {
		loads += s.Loads
	}
	require.GreaterOrEqual(t, loads, int64(6))
}

func ExampleNewHost() {
	path := filepath.Join(testenv.Root(), "tests", "models", "domains")
	h, err := mlx.NewHost(mlx.HostOptions{Budget: 1 << 30, IdleTTL: 10 * time.Minute}, mlx.HostedModel{Name: "domains", Path: path})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	ctx := context.Background()
	lease, err := h.Acquire(ctx, "domains", mlx.OnWait(func(w mlx.Wait) { fmt.Println(w) }))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lease.Release()
	results, err := lease.Model.Classify(ctx, []string{"The goalkeeper saved two penalties."}, []string{"sport", "food", "travel"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(results[0].Label)
	// Output:
	// model domains is being loaded
	// sport
}
