package parity

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native"
)

// tracesOf is what a model computes for ids: every layer's states, and the logits.
func tracesOf(t *testing.T, dir string, o engine.NativeOptions, texts []string) (traces []*engine.Trace) {
	t.Helper()
	m, err := native.Load(t.Context(), dir, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	for _, text := range texts {
		ids, err := m.Encode(context.Background(), text, true)
		require.NoError(t, err)
		trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{Rows: 1})
		require.NoError(t, err)
		traces = append(traces, trace)
	}
	return traces
}

// squares is the sum of squared differences.
func squares(a, b []float32) (sum float64) {
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	return sum
}

// With its own kernels the engine is nearer to the model in float32 than with MLX's bfloat16 ops, in every layer and in the
// logits, and with four-bit weights too.
func TestKernelsAreNearerToFloat32ThanMLXsOps(t *testing.T) {
	plain, packed := testenv.Model(t), filepath.Join(t.TempDir(), "four bits")
	tool, err := bridge.NewTool(testenv.Python(t))
	require.NoError(t, err)
	_, err = tool.Run(t.Context(), "-m", "mlx_lm", "convert", "--hf-path", plain, "--mlx-path", packed, "-q", "--q-bits", "4", "--q-group-size", "64")
	require.NoError(t, err)
	t.Run("bfloat16", func(t *testing.T) { nearerThanMLX(t, plain) })
	t.Run("four bits", func(t *testing.T) { nearerThanMLX(t, packed) })
}

func nearerThanMLX(t *testing.T, plain string) {
	texts := testenv.Texts(t)[:12]
	reference := tracesOf(t, testenv.InFloat32(t, plain), engine.NativeOptions{Exact: true}, texts)
	kernels, exact := tracesOf(t, plain, engine.NativeOptions{}, texts), tracesOf(t, plain, engine.NativeOptions{Exact: true}, texts)
	compare := func(what string, of func(*engine.Trace) []float32) {
		var ours, theirs float64
		for i := range texts {
			ours += squares(of(kernels[i]), of(reference[i]))
			theirs += squares(of(exact[i]), of(reference[i]))
		}
		t.Logf("%s: error %.3g with the kernels, %.3g with MLX's ops", what, math.Sqrt(ours), math.Sqrt(theirs))
		require.LessOrEqual(t, ours, theirs, what)
	}
	for layer := range reference[0].Layers {
		if layer > 0 { // the embeddings are rounded alike
			compare("states "+string(rune('0'+layer)), func(tr *engine.Trace) []float32 { return tr.Layers[layer] })
		}
	}
	compare("logits", func(tr *engine.Trace) []float32 { return tr.Logits })
}
