package parity

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native"
)

// asGGUF copies a model folder with its weights as GGUF.
func asGGUF(t *testing.T, dir, kind string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(out, os.DirFS(dir)))
	file := filepath.Join(out, "weights.gguf")
	text, err := exec.Command(testenv.Python(t), filepath.Join(testenv.Root(), "tests", "models", "to_gguf.py"), out, file, "--type", kind).CombinedOutput()
	require.NoError(t, err, string(text))
	weights, err := filepath.Glob(filepath.Join(out, "*.safetensors*"))
	require.NoError(t, err)
	for _, w := range weights {
		require.NoError(t, os.Remove(w))
	}
	return out
}

// The same weights give the same logits, but for the rounding of the types, whatever file they come from.
func TestGGUFHoldsTheSameModel(t *testing.T) {
	cases := map[string]struct {
		preset string
		kind   string
		bound  float64
	}{
		// Seven layers of random weights make 4 % of the rounding of bfloat16, in which the original computes; another
		// model's logits would be off by 140 %.
		"Gemma 3, f32":  {"gemma3-small", "f32", 0.08},
		"Gemma 3, q8_0": {"gemma3-small", "q8_0", 0.2},
		"Llama 3, f32":  {"llama3-small", "f32", 0.02},
		"Qwen 2, f16":   {"qwen2-small", "f16", 0.02},
		"Qwen 3, q8_0":  {"qwen3-small", "q8_0", 0.05},
	}
	presets := []string{"gemma3-small", "llama3-small", "qwen2-small", "qwen3-small"}
	dirs := makeModels(t, [][]string{presets[:1], presets[1:2], presets[2:3], presets[3:]})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := dirs[slices.Index(presets, c.preset)]
			want := traceOf(t, dir)
			got := traceOf(t, asGGUF(t, dir, c.kind))
			var difference, norm float64
			for i := range want {
				d := float64(want[i] - got[i])
				difference, norm = difference+d*d, norm+float64(want[i])*float64(want[i])
			}
			require.Less(t, difference/norm, c.bound*c.bound)
		})
	}
}

func traceOf(t *testing.T, dir string) []float32 {
	t.Helper()
	before := mlxc.LiveArrays()
	m, err := native.Load(t.Context(), dir, engine.NativeOptions{})
	require.NoError(t, err)
	ids, err := m.Encode(t.Context(), testenv.Texts(t)[0], true)
	require.NoError(t, err)
	trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1})
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.Equal(t, before, mlxc.LiveArrays())
	return trace.Logits
}

func TestGGUFOfTheTrainedModelClassifiesAlike(t *testing.T) {
	original := load(t, mlx.EngineNative)
	packed, err := mlx.LoadModel(asGGUF(t, testenv.Model(t), "q8_0"), mlx.WithEngine(mlx.EngineNative), mlx.WithNative(mlx.QuantizedGGUF()))
	require.NoError(t, err)
	defer packed.Close()
	require.Equal(t, "8-bit, groups of 32", packed.Info().Quantization)
	texts := testenv.Texts(t)[:20]
	a, err := original.Classify(t.Context(), texts, testenv.Labels(t))
	require.NoError(t, err)
	b, err := packed.Classify(t.Context(), texts, testenv.Labels(t))
	require.NoError(t, err)
	differ := 0
	for i := range a {
		if a[i].Label != b[i].Label {
			differ++
		}
	}
	require.LessOrEqual(t, differ, len(a)/20)
}

func TestBrokenGGUFIsRefusedBeforeMLXSeesIt(t *testing.T) {
	dir := asGGUF(t, testenv.Model(t), "f16")
	file := filepath.Join(dir, "weights.gguf")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, n := range []int{3, 100, 4000, len(data) / 2, len(data) - 100} {
		require.NoError(t, os.WriteFile(file, data[:n], 0o644))
		_, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
		require.ErrorIs(t, err, gguf.ErrMalformed, "%d bytes", n)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "second.gguf"), nil, 0o644))
	_, err = mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
	var checkpoint *mlx.CheckpointError
	require.ErrorAs(t, err, &checkpoint)
}
