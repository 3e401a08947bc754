package parity

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestEmbeddingsAreThoseOfTheLayersInPython(t *testing.T) {
	presets := []string{"embeddinggemma-small", "qwen3-embedding-small"}
	dirs := makeModels(t, [][]string{presets[:1], presets[1:]})
	for i, preset := range presets {
		t.Run(preset, func(t *testing.T) {
			dir := dirs[i]
			m := loadFrom(t, dir, mlx.EngineNative)
			texts := append(testenv.Texts(t)[:20], strings.Join(testenv.Texts(t)[:4], " "), "x")
			var ids [][]int32
			for _, text := range texts {
				tokens, err := m.Tokenizer().Encode(t.Context(), text, true)
				require.NoError(t, err)
				ids = append(ids, tokens)
			}
			var want [][]float32
			testenv.RunPython(t, "embed.py", ids, &want, dir)
			got, err := m.Embed(t.Context(), texts)
			require.NoError(t, err)
			for i := range texts {
				require.Greater(t, dot(want[i], got[i]), 0.9999, "text %d", i)
				require.InDelta(t, 1, dot(got[i], got[i]), 1e-5)
				alone, err := m.Embed(t.Context(), texts[i:i+1])
				require.NoError(t, err)
				require.Greater(t, dot(alone[0], got[i]), 0.9999, "alone and in a batch, text %d", i)
			}
			require.Less(t, dot(got[0], got[1]), 0.99, "texts differ")

			prefixed, err := m.Embed(t.Context(), []string{"task: search result | query: " + texts[0]})
			require.NoError(t, err)
			query, err := m.Embed(t.Context(), texts[:1], mlx.WithPromptName("query"))
			require.NoError(t, err)
			require.Equal(t, prefixed, query)
			short, err := m.Embed(t.Context(), texts[:1], mlx.WithDimensions(32))
			require.NoError(t, err)
			require.Len(t, short[0], 32)
			require.InDelta(t, 1, dot(short[0], short[0]), 1e-5)
			require.InDelta(t, float64(got[0][0]/got[0][1]), float64(short[0][0]/short[0][1]), 0.05)

			var option *mlx.OptionError
			_, err = m.Embed(t.Context(), texts, mlx.WithPromptName("poem"))
			require.ErrorAs(t, err, &option)
			_, err = m.Embed(t.Context(), texts, mlx.WithDimensions(100000))
			require.ErrorAs(t, err, &option)
			_, err = m.Embed(t.Context(), []string{"a\xff"})
			require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
			if preset == "embeddinggemma-small" {
				_, err = mlx.Collect(m.Generate(t.Context(), "x"))
				require.ErrorIs(t, err, mlx.ErrUnsupported)
				_, err = m.Classify(t.Context(), texts, testenv.Labels(t))
				require.ErrorIs(t, err, mlx.ErrUnsupported)
			}
		})
	}
}

func TestBrokenEmbeddingFoldersAreNamed(t *testing.T) {
	whole := makeModel(t, "embeddinggemma-small")
	for name, damage := range map[string]func(dir string) error{
		"2_Dense": func(dir string) error {
			return os.Rename(filepath.Join(dir, "2_Dense"), filepath.Join(dir, "2_Dense.old"))
		},
		"by [cls]": func(dir string) error {
			return writeJSON(filepath.Join(dir, "1_Pooling", "config.json"), map[string]any{"pooling_mode_cls": true})
		},
		"LSTM": func(dir string) error {
			return writeJSON(filepath.Join(dir, "modules.json"), []map[string]any{{"type": "sentence_transformers.models.LSTM"}})
		},
		"takes 768 values of the 192": func(dir string) error {
			return os.Rename(filepath.Join(dir, "3_Dense"), filepath.Join(dir, "2_Dense.new"))
		},
	} {
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(whole)))
		require.NoError(t, damage(dir))
		if strings.HasPrefix(name, "takes") {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "2_Dense")))
			require.NoError(t, os.Rename(filepath.Join(dir, "2_Dense.new"), filepath.Join(dir, "2_Dense")))
		}
		_, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
		require.Error(t, err, name)
		if name == "2_Dense" {
			require.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		require.ErrorContains(t, err, name)
	}
}

// A folder of the Sentence Transformers' layout whose weights have mlx-lm's names, which the python engine loads.
func namedEmbedding(t *testing.T) string { return makeModel(t, "qwen3-embedding-small", "--named") }

func TestBothEnginesEmbedAlike(t *testing.T) {
	texts := append(testenv.Texts(t)[:40], "x", strings.Join(testenv.Texts(t)[:60], " "), "", "<end_of_turn>")
	texts[42] = texts[0] // as token ids
	for name, dir := range map[string]string{"domains": testenv.Model(t), "assistant": filepath.Join(testenv.Root(), "tests", "models", "assistant"), "sentence transformers": namedEmbedding(t)} {
		t.Run(name, func(t *testing.T) {
			nat, py := loadFrom(t, dir, mlx.EngineNative), loadFrom(t, dir, mlx.EnginePython)
			ids := make([][]int32, len(texts))
			var err error
			ids[42], err = nat.Tokenizer().Encode(t.Context(), texts[42], true)
			require.NoError(t, err)
			for _, options := range [][]mlx.EmbedOption{nil, {mlx.WithDimensions(16)}, {mlx.WithTokenIDs(ids)}} {
				want, err := nat.Embed(t.Context(), texts, options...)
				require.NoError(t, err)
				got, err := py.Embed(t.Context(), texts, options...)
				require.NoError(t, err)
				for i := range texts {
					require.Len(t, got[i], len(want[i]))
					require.Greater(t, dot(want[i], got[i]), 0.9995, "text %d", i)
					require.InDelta(t, 1, dot(got[i], got[i]), 1e-5)
				}
			}
			all, err := py.Embed(t.Context(), texts)
			require.NoError(t, err)
			require.Less(t, dot(all[0], all[1]), 0.9999, "texts differ")
			for _, i := range []int{0, 7, 40, 41} {
				alone, err := py.Embed(t.Context(), texts[i:i+1])
				require.NoError(t, err)
				require.Greater(t, dot(alone[0], all[i]), 0.9995, "alone and in a batch, text %d", i)
			}
			for _, m := range []mlx.TextModel{nat, py} {
				var option *mlx.OptionError
				_, err := m.Embed(t.Context(), texts, mlx.WithPromptName("poem"))
				require.ErrorAs(t, err, &option)
				require.Equal(t, "WithPromptName", option.Option)
				_, err = m.Embed(t.Context(), nil, mlx.WithDimensions(100000))
				require.ErrorAs(t, err, &option)
				require.Equal(t, "WithDimensions", option.Option)
				_, err = m.Embed(t.Context(), []string{"a", "a\xff"})
				require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
				require.ErrorContains(t, err, "text 1")
				var token *mlx.TokenError
				_, err = m.Embed(t.Context(), []string{"a", ""}, mlx.WithTokenIDs([][]int32{nil, {1 << 30}}))
				require.ErrorAs(t, err, &token)
				_, err = m.Embed(t.Context(), []string{"a", ""}, mlx.WithTokenIDs([][]int32{nil, {}}))
				require.ErrorIs(t, err, mlx.ErrEmptyPrompt)
				require.ErrorContains(t, err, "text 1")
				var length *mlx.ContextLengthError
				_, err = m.Embed(t.Context(), []string{"", "a"}, mlx.WithTokenIDs([][]int32{make([]int32, m.Info().ContextLength), nil}))
				require.ErrorAs(t, err, &length)
				none, err := m.Embed(t.Context(), nil)
				require.NoError(t, err)
				require.Empty(t, none)
			}
			if name == "sentence transformers" {
				for _, m := range []mlx.TextModel{nat, py} {
					plain, err := m.Embed(t.Context(), []string{"task: search result | query: " + texts[0]})
					require.NoError(t, err)
					query, err := m.Embed(t.Context(), texts[:1], mlx.WithPromptName("query"))
					require.NoError(t, err)
					require.Equal(t, plain, query)
				}
			}
			// A text that goes through the model in chunks.
			long := make([]int32, 2200)
			for i := range long {
				long[i] = int32(10 + i%200)
			}
			if nat.Info().ContextLength > len(long) {
				option := mlx.WithTokenIDs([][]int32{long})
				want, err := nat.Embed(t.Context(), []string{""}, option)
				require.NoError(t, err)
				got, err := py.Embed(t.Context(), []string{""}, option)
				require.NoError(t, err)
				require.Greater(t, dot(want[0], got[0]), 0.9995)
			}
		})
	}
}

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func dot(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.NaN()
	}
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}
