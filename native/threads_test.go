package native

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// On the CPU a row's bits depend on nothing but its tokens: not on threads, on other requests, on the chunks it comes in,
// or on KV that was kept.
func TestBitsDoNotDependOnThreadsOrConcurrentRequests(t *testing.T) {
	texts := testenv.Texts(t)[:32]
	defer mlxc.SetCPUThreads(0)
	if !open(t).network.Shape.Rings {
		return // rows are computed alike by the CPU kernels only, and only these have threads
	}
	var want []engine.Classification
	var tokens []answer
	prompts := make([][]int32, len(texts))
	for _, threads := range []int{1, 3} {
		m := openWith(t, engine.NativeOptions{Threads: threads, PromptCache: 64 << 20})
		for i, text := range texts {
			ids, err := m.Encode(t.Context(), text, true)
			require.NoError(t, err)
			prompts[i] = ids
		}
		for _, size := range []int{1, 8, 32} {
			var got []engine.Classification
			for i := 0; i < len(texts); i += size {
				part, err := m.Classify(t.Context(), texts[i:i+size], domainOptions(t))
				require.NoError(t, err)
				got = append(got, part...)
			}
			if want == nil {
				want = got
			}
			require.Equal(t, want, got, "%d threads, %d texts at once", threads, size)
			o := engine.DefaultGenerateOptions()
			o.MaxTokens, o.IgnoreEOS, o.LogProbs = 12, true, true
			for round := range 2 { // the second one finds its prompts' KV kept
				answers := make([]answer, 0, len(texts))
				for i := 0; i < len(texts); i += size {
					answers = append(answers, together(t, m, prompts[i:i+size], o)...)
				}
				if tokens == nil {
					tokens = answers
				}
				require.Equal(t, tokens, answers, "%d threads, %d requests at once, round %d", threads, size, round)
			}
		}
	}
}

func TestThreadsThatAreNoNumberAreRefused(t *testing.T) {
	t.Setenv(decoder.ThreadsVariable, "many")
	for _, exact := range []bool{false, true} { // also where nothing would be computed by threads
		_, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Exact: exact})
		require.ErrorContains(t, err, decoder.ThreadsVariable)
	}
	_, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Threads: -1})
	var option *engine.OptionError
	require.ErrorAs(t, err, &option)
	t.Setenv(decoder.ThreadsVariable, "2")
	if m := open(t); m.network.Shape.Rings {
		require.Contains(t, m.Info().Kernels, "2 threads")
	}
}

// MLX's ops, on a CPU and on a GPU, have no threads to set.
func TestThreadsOfAModelWithoutCPUKernelsAreRefused(t *testing.T) {
	before := mlxtest.Measure(t)
	_, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Exact: true, Threads: 2})
	var option *engine.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, "Threads", option.Option)
	require.Equal(t, before, mlxtest.Measure(t))
	t.Setenv(decoder.ThreadsVariable, "2")
	openWith(t, engine.NativeOptions{Exact: true}) // the variable is for all models
}
