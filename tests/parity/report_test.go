//go:build long

package parity

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// `make parity-report` prints, for models of real shapes with random weights, after how many greedy tokens two ways of
// computing the same text part: native and mlx-lm, alone and in a batch, from the start and from a kept
// prefix. Random weights are the hard case: their best tokens are close to each other.
func TestParityReport(t *testing.T) {
	tokens, count := 128, 32
	if size := os.Getenv("GO_MLX_REPORT"); size != "" { // "tokens,prompts": fewer, for a machine without a GPU
		_, err := fmt.Sscanf(size, "%d,%d", &tokens, &count)
		require.NoError(t, err)
	}
	prompts, few := testenv.Texts(t)[:count], min(8, count)
	fmt.Printf("| model | tokens | native, mlx-lm | exact, mlx-lm | 1, %d at once | 1, %d at once | cold, kept prefix |\n|---|---|---|---|---|---|---|\n", few, count)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"Gemma 3 1B", []string{"gemma3-1b"}},
		{"Gemma 3 1B, 4-bit", []string{"gemma3-1b", "--bits", "4"}},
		{"Gemma 3 4B, 2 layers", []string{"gemma3-4b", "--layers", "2"}},
		{"Gemma 3 27B, 2 layers", []string{"gemma3-27b", "--layers", "2"}},
		{"Qwen 3 8B, 2 layers", []string{"qwen3-8b", "--layers", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := makeModel(t, c.args...)
			alone := func(prompts []string, options ...mlx.LoadOption) [][]int32 {
				m, err := mlx.LoadModel(dir, options...)
				require.NoError(t, err)
				defer func() { require.NoError(t, m.Close()) }()
				var out [][]int32
				for _, prompt := range prompts {
					out = append(out, greedy(t, m, prompt, tokens))
				}
				return out
			}
			together := func(n int) [][]int32 {
				m, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
				require.NoError(t, err)
				defer func() { require.NoError(t, m.Close()) }()
				out := make([][]int32, n)
				var wait sync.WaitGroup
				for i, prompt := range prompts[:n] {
					wait.Go(func() { out[i] = greedy(t, m, prompt, tokens) })
				}
				wait.Wait()
				return out
			}
			some := prompts[:4]
			native := alone(prompts, mlx.WithEngine(mlx.EngineNative))
			python := alone(some, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
			exact := alone(some, mlx.WithEngine(mlx.EngineNative), mlx.WithNative(mlx.Exact()))
			// Every prompt once to fill the cache, then with something after it.
			var longer []string
			for _, prompt := range some {
				longer = append(longer, prompt, prompt+" And then?")
			}
			kept := alone(longer, mlx.WithEngine(mlx.EngineNative), mlx.WithPromptCache(1<<30))
			cold := alone(longer, mlx.WithEngine(mlx.EngineNative))
			fmt.Printf("| %s | %d | %s | %s | %s | %s | %s |\n", c.name, tokens, alike(native, python), alike(exact, python),
				alike(native, together(few)), alike(native, together(count)), alike(cold, kept))
			require.NoError(t, os.RemoveAll(dir))
		})
	}
}

func greedy(t *testing.T, m mlx.TextModel, prompt string, tokens int) []int32 {
	c, err := mlx.Collect(m.Generate(t.Context(), prompt, mlx.WithMaxTokens(tokens), mlx.WithSampling(mlx.IgnoreEOS())))
	require.NoError(t, err)
	return ids(c)
}

// alike tells how many of the texts in b are the same as those in a, and where the others part.
func alike(a, b [][]int32) string {
	same := 0
	var parted []string
	for i := range b {
		n := 0
		for n < len(a[i]) && n < len(b[i]) && a[i][n] == b[i][n] {
			n++
		}
		if n == len(a[i]) && n == len(b[i]) {
			same++
			continue
		}
		parted = append(parted, fmt.Sprint(n))
	}
	out := fmt.Sprintf("%d of %d", same, len(b))
	if len(parted) > 0 {
		out += ", others after " + strings.Join(parted, " ")
	}
	return out
}
