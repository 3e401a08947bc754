package parity

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// makeModel makes a random model folder with tests/models/random_model.py.
func makeModel(t *testing.T, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	args = append([]string{filepath.Join(testenv.Root(), "tests", "models", "random_model.py"), args[0], dir}, args[1:]...)
	out, err := exec.Command(testenv.Python(t), args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// requireEqualTokens compares greedy tokens and labels of both engines.
func requireEqualTokens(t *testing.T, dir string, tokens, texts int) {
	t.Helper()
	nat, py := loadFrom(t, dir, mlx.EngineNative), loadFrom(t, dir, mlx.EnginePython)
	for _, prompt := range []string{"Where can I find", "Der Torwart"} {
		options := []mlx.GenerateOption{mlx.WithMaxTokens(tokens), mlx.WithIgnoreEOS()}
		a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
			return mlx.Collect(m.Generate(t.Context(), prompt, options...))
		})
		require.Len(t, a.Tokens, tokens)
		require.Equal(t, b, a)
	}
	if texts == 0 {
		return
	}
	labels := testenv.Labels(t)
	a, b := both(t, nat, py, func(m mlx.TextModel) ([]mlx.Classification, error) {
		return m.Classify(t.Context(), testenv.Texts(t)[:texts], labels)
	})
	for i := range a {
		require.Equal(t, b[i].Label, a[i].Label, "text %d", i)
	}
}

// Nested config, linear rope scaling, several KV heads, and the forms in which mlx-lm saves weights.
func TestCheckpointsAsMLXLMSavesThem(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		states int
		tokens int // MLX's CPU kernels for quantised weights are slow. 0: transformers reads every qwen2 folder with
		// a tokenizer of its own, which splits text in another way than the test folder's does
	}{
		"Gemma 3":                      {[]string{"gemma3-small"}, 8, 60},
		"Gemma 3, sharded":             {[]string{"gemma3-small", "--shards", "3"}, 8, 60},
		"Gemma 3, 4-bit":               {[]string{"gemma3-small", "--bits", "4"}, 8, 10},
		"Gemma 3, 8-bit, groups of 32": {[]string{"gemma3-small", "--bits", "8", "--group-size", "32"}, 8, 10},
		"Gemma 3, 4-bit, sharded":      {[]string{"gemma3-small", "--bits", "4", "--shards", "2"}, 8, 5},
		"Qwen 3":                       {[]string{"qwen3-small"}, 4, 60},
		"Qwen 3, tied":                 {[]string{"qwen3-small-tied"}, 4, 30},
		"Qwen 2":                       {[]string{"qwen2-small"}, 4, 0},
		"Qwen 2, 4-bit":                {[]string{"qwen2-small", "--bits", "4"}, 4, 0},
		"Llama 3":                      {[]string{"llama3-small"}, 4, 60},
		"Llama 3, 4-bit, sharded":      {[]string{"llama3-small", "--bits", "4", "--shards", "2"}, 4, 10},
		"Qwen 3, 4-bit":                {[]string{"qwen3-small", "--bits", "4"}, 4, 10},
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeModel(t, c.args...)
			requireEqualLayers(t, dir, c.states, testenv.Texts(t)[:1])
			texts := 2
			if strings.HasSuffix(name, "4-bit, sharded") { // labels of 4-bit weights are slow, and shards do not change them
				texts = 0
			}
			if c.tokens > 0 {
				requireEqualTokens(t, dir, c.tokens, texts)
			}
		})
	}
}

// KV that is packed or bounded is computed as mlx-lm does, token for token.
func TestPackedAndBoundedKVAreTheSame(t *testing.T) {
	dir := makeModel(t, "qwen3-small")
	nat, py := loadFrom(t, dir, mlx.EngineNative), loadFrom(t, dir, mlx.EnginePython)
	long := strings.Join(testenv.Texts(t)[:20], " ")
	for name, option := range map[string]mlx.GenerateOption{
		"8 bits":             mlx.WithQuantizedKV(8, 64, 0),
		"4 bits, groups 32":  mlx.WithQuantizedKV(4, 32, 0),
		"4 bits, from 20 on": mlx.WithQuantizedKV(4, 64, 20),
		"bound":              mlx.WithMaxKVSize(24),
		"large bound":        mlx.WithMaxKVSize(1000),
	} {
		for _, prompt := range []string{"Where can I find", long} {
			options := []mlx.GenerateOption{option, mlx.WithMaxTokens(50), mlx.WithIgnoreEOS(), mlx.WithLogProbs()}
			a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
				return mlx.Collect(m.Generate(t.Context(), prompt, options...))
			})
			require.Equal(t, b, a, "%s, %d bytes of prompt", name, len(prompt))
		}
	}
	_, err := mlx.Collect(nat.Generate(t.Context(), "x", mlx.WithQuantizedKV(4, 128, 0)))
	var option *mlx.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, "QuantizedKV", option.Option)
}
