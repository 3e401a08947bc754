package parity

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// withConfig is a folder with the files of another and a config with changes; nil takes a key out.
func withConfig(t *testing.T, from string, changes map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, entry := range slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "config.json" }) {
		require.NoError(t, os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(dir, entry.Name())))
	}
	data, err := os.ReadFile(filepath.Join(from, "config.json"))
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(data, &config))
	maps.Copy(config, changes)
	maps.DeleteFunc(config, func(_ string, value any) bool { return value == nil })
	data, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
	return dir
}

// What transformers 5 writes under rope_parameters and layer_types means what earlier versions wrote elsewhere, to both engines.
func TestNewerConfigsAreTheSameModels(t *testing.T) {
	llama3 := map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
	with := func(m map[string]any, theta float64) map[string]any {
		m = maps.Clone(m)
		m["rope_theta"] = theta
		return m
	}
	linear, plain := map[string]any{"rope_type": "linear", "factor": 4.0}, map[string]any{"rope_type": "default"}
	dirs := makeModels(t, [][]string{{"llama3-small"}, {"qwen3-small"}})
	gemma := testenv.Model(t)
	for name, c := range map[string]struct {
		from         string
		older, newer map[string]any
	}{
		"Llama 3.1":        {dirs[0], map[string]any{"rope_theta": 50.0, "rope_scaling": llama3}, map[string]any{"rope_theta": nil, "rope_scaling": nil, "rope_parameters": with(llama3, 50)}},
		"Llama":            {dirs[0], map[string]any{"rope_theta": 1234.0, "rope_scaling": nil}, map[string]any{"rope_theta": nil, "rope_scaling": nil, "rope_parameters": with(plain, 1234)}},
		"Llama, with both": {dirs[0], map[string]any{"rope_theta": 1234.0, "rope_scaling": linear}, map[string]any{"rope_theta": 77.0, "rope_scaling": linear, "rope_parameters": with(plain, 1234)}},
		"Qwen 3, linear":   {dirs[1], map[string]any{"rope_theta": 1234.0, "rope_scaling": linear}, map[string]any{"rope_theta": nil, "rope_scaling": nil, "rope_parameters": with(linear, 1234)}},
		"Gemma 3": {gemma, map[string]any{"rope_theta": 5e4, "rope_local_base_freq": 777.0, "rope_scaling": linear},
			map[string]any{"rope_theta": nil, "rope_local_base_freq": nil, "rope_scaling": nil, "rope_parameters": map[string]any{"full_attention": with(linear, 5e4), "sliding_attention": with(plain, 777)}}},
		"Gemma 3's layers": {gemma, map[string]any{"sliding_window": 4},
			map[string]any{"sliding_window": 4, "sliding_window_pattern": nil, "layer_types": []string{"sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"}}},
	} {
		t.Run(name, func(t *testing.T) {
			older, newer := withConfig(t, c.from, c.older), withConfig(t, c.from, c.newer)
			answer := func(dir string, engine mlx.Engine) mlx.Completion {
				got, err := mlx.Collect(loadFrom(t, dir, engine).GenerateIDs(t.Context(), []int32{2, 451, 616, 379, 740, 304, 744, 1351, 434, 303, 99, 1000}, mlx.WithMaxTokens(4), mlx.WithTemperature(0), mlx.WithOutput(mlx.LogProbs()), mlx.WithSampling(mlx.IgnoreEOS())))
				require.NoError(t, err)
				return got
			}
			want := answer(older, mlx.EngineNative)
			require.NotEqual(t, answer(c.from, mlx.EngineNative), want, "the settings count")
			require.Equal(t, want, answer(newer, mlx.EngineNative))
			require.Equal(t, want, answer(newer, mlx.EnginePython))
		})
	}
	for _, types := range [][]string{{"full_attention"}, {"full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"}, slices.Repeat([]string{"other"}, 6)} {
		dir := withConfig(t, gemma, map[string]any{"sliding_window_pattern": nil, "layer_types": types})
		_, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
		require.ErrorIs(t, err, mlx.ErrUnsupported)
		require.ErrorContains(t, err, "layer_types")
		_, err = mlx.LoadModel(dir, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
		require.ErrorContains(t, err, "layer_types")
	}
}

// Models differ in it: none is better than a default.
func TestAConfigWithoutEpsilonIsRefused(t *testing.T) {
	for _, preset := range makeModels(t, [][]string{{"llama3-small"}, {"qwen2-small"}, {"qwen3-small"}}) {
		dir := withConfig(t, preset, map[string]any{"rms_norm_eps": nil})
		_, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
		require.ErrorContains(t, err, "config.json: no rms_norm_eps")
		_, err = mlx.LoadModel(dir, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
		require.ErrorContains(t, err, "rms_norm_eps")
	}
}
