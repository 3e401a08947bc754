//go:build real

package real

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// real is a file that fetch.sh has fetched.
func realFile(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(testenv.Root(), "build", "real", name)
	require.FileExists(t, path, "run `make test-real`")
	return path
}

const (
	gemma  = "gemma-3-270m-q4_k_m.gguf"
	smolLM = "smollm2-135m-q4_1.gguf"
)

func load(t testing.TB, path string, options ...mlx.LoadOption) mlx.TextModel {
	t.Helper()
	m, err := mlx.LoadModel(path, options...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func TestGGUFFilesLoadByThemselves(t *testing.T) {
	info := load(t, realFile(t, gemma)).Info()
	require.Equal(t, "gemma3_text", info.Architecture)
	require.Equal(t, []int{18, 640, 262144, 32768}, []int{info.Layers, info.HiddenSize, info.VocabSize, info.ContextLength})
	require.Contains(t, info.Source, "Q5_0 (81)")
	m := load(t, realFile(t, smolLM))
	require.Equal(t, "llama", m.Info().Architecture)
	answer, err := mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "What is the capital of France?"}}, mlx.WithMaxTokens(20)))
	require.NoError(t, err)
	require.Contains(t, answer.Text, "Paris")
	require.Equal(t, mlx.FinishStop, answer.FinishReason)
}

// A handle that was freed twice ended half of all processes that loaded a real file.
func TestAFileLoadsManyTimesAndLeavesNothing(t *testing.T) {
	before, err := mlxc.ReadMemory()
	require.NoError(t, err)
	arrays := mlxc.LiveArrays()
	for range 5 {
		m, err := mlx.LoadModel(realFile(t, smolLM), mlx.WithNative(mlx.QuantizedGGUF()))
		require.NoError(t, err)
		require.Equal(t, "4-bit, groups of 32 and 8-bit, groups of 32", m.Info().Quantization)
		require.NoError(t, m.Close())
		require.Equal(t, arrays, mlxc.LiveArrays())
	}
	after, err := mlxc.ReadMemory()
	require.NoError(t, err)
	require.Equal(t, before.Active, after.Active)
}

// The same weights as safetensors give the same log-probabilities, in both engines, to the bit.
func TestExportedWeightsAreTheSameInBothEngines(t *testing.T) {
	for name, prompt := range map[string]string{gemma: "The capital of France is", smolLM: "Once upon a time, there was a"} {
		t.Run(name, func(t *testing.T) {
			from, err := modelfiles.Find(realFile(t, name))
			require.NoError(t, err)
			dir := filepath.Join(t.TempDir(), "model")
			require.NoError(t, from.Export(dir))
			ask := func(m mlx.TextModel) mlx.Completion {
				out, err := mlx.Collect(m.Generate(t.Context(), prompt, mlx.WithMaxTokens(6), mlx.WithOutput(mlx.TopLogProbs(20))))
				require.NoError(t, err)
				return out
			}
			want := ask(load(t, dir, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))))
			require.Equal(t, want, ask(load(t, dir, mlx.WithNative(mlx.Exact()))), "safetensors")
			require.Equal(t, want, ask(load(t, realFile(t, name), mlx.WithNative(mlx.Exact()))), "GGUF")
			require.NotEmpty(t, strings.TrimSpace(want.Text))
		})
	}
}
