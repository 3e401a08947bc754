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
	_, err := load(t, mlx.EnginePython).Embed(t.Context(), []string{"x"})
	var option *mlx.OptionError
	require.ErrorAs(t, err, &option)
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
