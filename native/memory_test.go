package native

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

func TestTwoThousandTokensLeaveNothingBehind(t *testing.T) {
	m := open(t)
	collect(t, m, "Please check", func(o *engine.GenerateOptions) { o.MaxTokens = 3 })
	before := mlxtest.Measure(t)
	ids, _ := collect(t, m, "Please check", func(o *engine.GenerateOptions) {
		o.MaxTokens, o.Temperature, o.TopLogProbs, o.RepetitionPenalty = 2000, 1, 2, 1.1
		o.TopP, o.TopK, o.MinP = 0.95, 100, 0.001
	})
	require.Len(t, ids, 2000)
	require.Equal(t, before, mlxtest.Measure(t))
}

func TestTenThousandClassificationsLeaveNothingBehind(t *testing.T) {
	m := open(t)
	options := domainOptions(t)
	// The shared prefix is kept between calls; it is there before and after.
	_, err := m.Classify(t.Context(), []string{"warm"}, options)
	require.NoError(t, err)
	before := mlxtest.Measure(t)
	texts := testenv.Texts(t)
	var many []string
	for len(many) < 10000 {
		many = append(many, string([]rune(texts[len(many)%len(texts)])[:3]))
	}
	results, err := m.Classify(t.Context(), many, options)
	require.NoError(t, err)
	require.Len(t, results, 10000)
	require.Equal(t, before, mlxtest.Measure(t))
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 10001, metrics.Classified)
}

func TestEndedStreamsLeaveNothingBehind(t *testing.T) {
	m := open(t)
	before := mlxtest.Measure(t)
	prompt := engine.Prompt{Text: "Where can I find"}
	options := engine.DefaultGenerateOptions()
	options.IgnoreEOS, options.Temperature = true, 1
	for name, end := range map[string]func(t *testing.T){
		"broken off": func(t *testing.T) {
			n := 0
			for _, err := range m.Generate(t.Context(), prompt, options) {
				require.NoError(t, err)
				if n++; n == 5 {
					break
				}
			}
		},
		"cancelled": func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			n, last := 0, error(nil)
			for _, err := range m.Generate(ctx, prompt, options) {
				last = err
				if n++; n == 5 {
					cancel()
				}
			}
			cancel()
			require.ErrorIs(t, last, context.Canceled)
			require.Equal(t, 6, n, "the error comes at once")
		},
		"bad prompt": func(t *testing.T) {
			for _, err := range m.Generate(t.Context(), engine.Prompt{IDs: []int32{1, 99999}}, options) {
				require.ErrorContains(t, err, "99999")
			}
		},
		"panic in the loop": func(t *testing.T) {
			require.Panics(t, func() {
				for range m.Generate(t.Context(), prompt, options) {
					panic("reader")
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				end(t)
				require.Equal(t, before, mlxtest.Measure(t))
			}
		})
	}
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.Active)
	require.Zero(t, metrics.KVBytes)
}

// The instructions before texts are kept in the budget of all kept KV.
func TestEvictedPrefixesAreFreed(t *testing.T) {
	labels := testenv.Labels(t)
	options := func(i int) engine.ClassifyOptions {
		o := engine.ClassifyOptions{Labels: labels[i%8:], Prompt: engine.DefaultLabelPrompt}
		if i >= 8 {
			o.Prompt = "Other words. " + o.Prompt
		}
		return o
	}
	classify := func(m *Model, i int) (metrics engine.Metrics, computed int64) {
		before, err := m.Metrics(t.Context())
		require.NoError(t, err)
		for range 2 {
			_, err := m.Classify(t.Context(), []string{"x"}, options(i))
			require.NoError(t, err)
		}
		metrics, err = m.Metrics(t.Context())
		require.NoError(t, err)
		return metrics, metrics.PromptTokens - before.PromptTokens
	}
	// What a prefix takes depends on the kernels: some grow their KV by blocks, others keep what there is.
	one, _ := classify(openWith(t, engine.NativeOptions{PromptCache: 1 << 30}), 0)
	require.Positive(t, one.CachedKVBytes)
	budget := 4 * one.CachedKVBytes
	m := openWith(t, engine.NativeOptions{PromptCache: budget})
	var largest int64
	for i := range 12 {
		metrics, computed := classify(m, i)
		require.Less(t, computed, int64(120), "the second time only the text is computed")
		largest = max(largest, metrics.CachedKVBytes)
		require.LessOrEqual(t, metrics.CachedKVBytes, budget)
	}
	require.Greater(t, largest, budget/2)
	_, kept := classify(m, 11)
	_, forgotten := classify(m, 0)
	require.Less(t, kept+20, forgotten, "the last prefix is still there, the first one was given up")
}

func TestFailedLoadsLeaveNothingBehind(t *testing.T) {
	before := mlxtest.Measure(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Load(ctx, testenv.Model(t), engine.NativeOptions{})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, before, mlxtest.Measure(t))
	_, err = Load(t.Context(), t.TempDir(), engine.NativeOptions{})
	require.Error(t, err)
	require.False(t, errors.Is(err, engine.ErrUnsupported))
	require.Equal(t, before, mlxtest.Measure(t))
}

// endingContext ends when it is looked at for the n-th time.
type endingContext struct {
	context.Context
	left int
}

func (c *endingContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// A load that is given up at whatever point it looks at its context returns no model, and keeps no weights and no thread.
func TestALoadThatIsGivenUpLeavesNothingBehind(t *testing.T) {
	before, threads := mlxtest.Measure(t), int64(0)
	for n := 0; ; n++ {
		m, err := Load(&endingContext{t.Context(), n}, testenv.Model(t), engine.NativeOptions{Draft: testenv.Model(t)})
		if err == nil {
			require.NoError(t, m.Close())
			require.Greater(t, n, 2, "the context is looked at while weights are read")
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, m)
		require.Equal(t, before, mlxtest.Measure(t))
		if n == 0 {
			threads = mlxc.Threads()
		}
		require.Equal(t, threads, mlxc.Threads(), "the next load takes the same thread")
	}
}

// Weights are read into their place: loading holds little more than the file, also where norms are changed or a
// draft model is loaded too.
func TestLoadingHoldsTheWeightsOnce(t *testing.T) {
	for _, draft := range []string{"", testenv.Model(t)} {
		before := mlxtest.Measure(t)
		require.NoError(t, mlxc.ResetPeak())
		m, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Draft: draft, MemoryBudget: 1 << 30})
		require.NoError(t, err)
		memory, err := mlxc.ReadMemory()
		require.NoError(t, err)
		metrics, err := m.Metrics(t.Context())
		require.NoError(t, err)
		require.Less(t, float64(memory.Peak-before.Active), 1.1*float64(metrics.WeightBytes))
		require.GreaterOrEqual(t, metrics.ActiveBytes-int64(before.Active), metrics.WeightBytes)
		require.EqualValues(t, 1<<30, metrics.BudgetBytes)
		require.Zero(t, metrics.WiredLimitBytes, "not on this device")
		require.NoError(t, m.Close())
		require.Equal(t, before, mlxtest.Measure(t))
	}
}
