package native

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// makeAdapter writes an adapter with both halves random.
func makeAdapter(t *testing.T) string {
	t.Helper()
	o := mlxtest.TrainOptions(t)
	o.Iterations = 1
	_, err := Train(t.Context(), testenv.Model(t), o)
	require.NoError(t, err)
	rewriteFile(t, filepath.Join(o.Out, checkpoint.AdapterWeightsFile), func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
		for i, name := range slices.Sorted(maps.Keys(tensors)) {
			if strings.HasSuffix(name, ".lora_b") { // zeros, or nearly so
				tensors[name] = s.Normal(mlxc.Float32, 0.05, s.RandomKey(uint64(i)), tensors[name].Shape()...)
			}
		}
	})
	return o.Out
}

func TestAnAdapterChangesTheModelAndOnlyWhileItIsThere(t *testing.T) {
	plain := open(t)
	adapted := openWith(t, engine.NativeOptions{Adapter: makeAdapter(t)})
	a, _ := collect(t, plain, "Where can I find", func(o *engine.GenerateOptions) { o.MaxTokens = 40 })
	b, _ := collect(t, adapted, "Where can I find", func(o *engine.GenerateOptions) { o.MaxTokens = 40 })
	require.NotEqual(t, a, b)
}

func TestBrokenAdaptersAreRefused(t *testing.T) {
	good := makeAdapter(t)
	before := mlxtest.Measure(t)
	var damaged *engine.CheckpointError
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		check  func(t *testing.T, err error)
	}{
		"no folder": {func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(dir)) },
			func(t *testing.T, err error) { require.ErrorIs(t, err, os.ErrNotExist) }},
		"no weights": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, checkpoint.AdapterWeightsFile)))
		},
			func(t *testing.T, err error) { require.ErrorIs(t, err, os.ErrNotExist) }},
		"other kind": {func(t *testing.T, dir string) {
			testenv.EditJSON(t, dir, checkpoint.AdapterConfigFile, func(c map[string]any) { c["fine_tune_type"] = "dora" })
		}, func(t *testing.T, err error) { require.ErrorIs(t, err, engine.ErrUnsupported) }},
		"other rank": {func(t *testing.T, dir string) {
			testenv.EditJSON(t, dir, checkpoint.AdapterConfigFile, func(c map[string]any) { c["lora_parameters"].(map[string]any)["rank"] = 4 })
		}, func(t *testing.T, err error) {
			require.ErrorAs(t, err, &damaged)
			require.Contains(t, damaged.Problems[0], "has shape")
		}},
		"no scale": {func(t *testing.T, dir string) {
			testenv.EditJSON(t, dir, checkpoint.AdapterConfigFile, func(c map[string]any) { delete(c["lora_parameters"].(map[string]any), "scale") })
		}, func(t *testing.T, err error) { require.ErrorContains(t, err, "incomplete") }},
		"cut off": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, checkpoint.AdapterWeightsFile)
			stat, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, stat.Size()/2))
		}, func(t *testing.T, err error) { require.ErrorContains(t, err, "truncated") }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.CopyFS(dir, os.DirFS(good)))
			c.damage(t, dir)
			_, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Adapter: dir})
			require.Error(t, err)
			c.check(t, err)
		})
	}
	require.Equal(t, before, mlxtest.Measure(t))
}

func TestAdaptersAreWrittenInMLXLMsForm(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(makeAdapter(t), checkpoint.AdapterConfigFile))
	require.NoError(t, err)
	var c map[string]any
	require.NoError(t, json.Unmarshal(data, &c))
	require.Equal(t, "lora", c["fine_tune_type"])
	require.EqualValues(t, 3, c["num_layers"])
	require.EqualValues(t, 8, c["lora_parameters"].(map[string]any)["rank"])
}

// The CPU kernels hold an adapter in float32 whatever it is saved in, and that is what is counted for it.
func TestAnAdapterInHalfPrecisionHoldsWhatIsCounted(t *testing.T) {
	whole, half := makeAdapter(t), t.TempDir()
	require.NoError(t, os.CopyFS(half, os.DirFS(whole)))
	rewriteFile(t, filepath.Join(half, checkpoint.AdapterWeightsFile), func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
		for name, a := range tensors {
			tensors[name] = s.AsType(a, mlxc.BFloat16)
		}
	})
	active := func(adapter string) int64 {
		m := openWith(t, engine.NativeOptions{Adapter: adapter})
		defer m.Close()
		metrics, err := m.Metrics(t.Context())
		require.NoError(t, err)
		return metrics.ActiveBytes
	}
	plain, wide, narrow := active(""), active(whole), active(half)
	require.Equal(t, wide, narrow)
	model := testenv.Model(t)
	counted := modelfiles.Weights(model, half) - modelfiles.Weights(model)
	require.Equal(t, counted, modelfiles.Weights(model, whole)-modelfiles.Weights(model))
	require.InEpsilon(t, wide-plain, counted, 0.02)
}
