package parity

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// makeModel makes a random model folder with tests/models/random_model.py.
func makeModel(t *testing.T, args ...string) string {
	t.Helper()
	return makeModels(t, [][]string{args})[0]
}

// makeModels makes several with one start of Python, which takes longer than the models do.
func makeModels(t *testing.T, list [][]string) (dirs []string) {
	t.Helper()
	var lines strings.Builder
	for i, args := range list {
		dirs = append(dirs, filepath.Join(t.TempDir(), strconv.Itoa(i)))
		fmt.Fprintln(&lines, strings.Join(append([]string{args[0], dirs[i]}, args[1:]...), "\t"))
	}
	cmd := exec.Command(testenv.Python(t), filepath.Join(testenv.Root(), "tests", "models", "random_model.py"), "-")
	cmd.Stdin = strings.NewReader(lines.String())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dirs
}

// requireEqualTokens compares greedy tokens and labels of both engines.
func requireEqualTokens(t *testing.T, nat, py engine.Engine, tokens int, labels []string) {
	t.Helper()
	for _, prompt := range []string{"Where can I find", "Der Torwart"} {
		o := engine.DefaultGenerateOptions()
		o.MaxTokens, o.IgnoreEOS = tokens, true
		a, b := both(t, nat, py, func(m engine.Engine) (mlx.Completion, error) {
			return mlx.Collect(m.Generate(t.Context(), engine.Prompt{Text: prompt}, o))
		})
		require.Len(t, a.Tokens, tokens)
		require.Equal(t, b, a)
	}
	if labels == nil {
		return
	}
	o := engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt}
	a, b := both(t, nat, py, func(m engine.Engine) ([]engine.Classification, error) {
		return m.Classify(t.Context(), testenv.Texts(t)[:2], o)
	})
	for i := range a {
		require.Equal(t, b[i].Label, a[i].Label, "text %d", i)
	}
}

// Nested config, linear rope scaling, several KV heads, and the forms in which mlx-lm saves weights.
func TestCheckpointsAsMLXLMSavesThem(t *testing.T) {
	cases := map[string]struct {
		args   []string
		states int
		tokens int // 0: transformers reads every qwen2 folder with
		// a tokenizer of its own, which splits text in another way than the test folder's does
	}{
		"Gemma 3":                      {[]string{"gemma3-small"}, 8, 60},
		"Gemma 3, sharded":             {[]string{"gemma3-small", "--shards", "3"}, 8, 60},
		"Gemma 3, 4-bit":               {[]string{"gemma3-small", "--layers", "4", "--bits", "4"}, 5, 10},
		"Gemma 3, 8-bit, groups of 32": {[]string{"gemma3-small", "--layers", "4", "--bits", "8", "--group-size", "32"}, 5, 10},
		"Gemma 3, 4-bit, sharded":      {[]string{"gemma3-small", "--layers", "4", "--bits", "4", "--shards", "2"}, 5, 5},
		"Qwen 3":                       {[]string{"qwen3-small"}, 4, 60},
		"Qwen 3, tied":                 {[]string{"qwen3-small-tied"}, 4, 30},
		"Qwen 2":                       {[]string{"qwen2-small"}, 4, 0},
		"Qwen 2, 4-bit":                {[]string{"qwen2-small", "--bits", "4"}, 4, 0},
		"Llama 3":                      {[]string{"llama3-small"}, 4, 60},
		"Llama 3, 4-bit, sharded":      {[]string{"llama3-small", "--bits", "4", "--shards", "2"}, 4, 10},
		"Qwen 3, 4-bit":                {[]string{"qwen3-small", "--bits", "4"}, 4, 10},
	}
	names := slices.Sorted(maps.Keys(cases))
	var list [][]string
	for _, name := range names {
		list = append(list, cases[name].args)
	}
	dirs := makeModels(t, list)
	for i, name := range names {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			nat, py := loadEngines(t, dirs[i])
			// MLX's products of quantised weights are slow on CPUs, and know nothing of windows: a short text is enough for them, and of Gemma's layers
			// the first four, one of which is global.
			repeat, labels := 8, testenv.Labels(t)
			if strings.Contains(name, "-bit") {
				repeat, labels = 1, labels[:4]
			}
			if strings.HasSuffix(name, "4-bit, sharded") { // shards do not change labels
				labels = nil
			}
			requireEqualLayers(t, nat, py, c.states, repeat, testenv.Texts(t)[:1])
			if c.tokens > 0 {
				requireEqualTokens(t, nat, py, c.tokens, labels)
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
		"8 bits":             mlx.WithKV(mlx.QuantizedKV(8, 64, 0)),
		"4 bits, groups 32":  mlx.WithKV(mlx.QuantizedKV(4, 32, 0)),
		"4 bits, from 20 on": mlx.WithKV(mlx.QuantizedKV(4, 64, 20)),
		"bound":              mlx.WithKV(mlx.MaxKVSize(24)),
		"large bound":        mlx.WithKV(mlx.MaxKVSize(1000)),
	} {
		for _, prompt := range []string{"Where can I find", long} {
			options := []mlx.GenerateOption{option, mlx.WithMaxTokens(50), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithOutput(mlx.LogProbs())}
			a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
				return mlx.Collect(m.Generate(t.Context(), prompt, options...))
			})
			require.Equal(t, b, a, "%s, %d bytes of prompt", name, len(prompt))
		}
	}
	_, err := mlx.Collect(nat.Generate(t.Context(), "x", mlx.WithKV(mlx.QuantizedKV(4, 128, 0))))
	var option *mlx.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, "QuantizedKV", option.Option)
}
