//go:build cuda

package native

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// `make test-cuda`, on a machine with an NVIDIA GPU: the fused kernels compute what MLX's own ops do.
func TestFusedKernelsComputeWhatMLXDoes(t *testing.T) {
	fused, exact := openPath(t, benchModel(t), engine.NativeOptions{}), openPath(t, benchModel(t), engine.NativeOptions{Exact: true})
	require.NotNil(t, fused.shape.attention, "the kernels do not serve this model")
	for _, text := range []string{"Where can I find", strings.Repeat(testenv.Texts(t)[0]+" ", 40)} {
		ids, err := exact.Encode(t.Context(), text, true)
		require.NoError(t, err)
		want, err := exact.Trace(t.Context(), ids)
		require.NoError(t, err)
		got, err := fused.Trace(t.Context(), ids)
		require.NoError(t, err)
		require.Len(t, got.Layers, len(want.Layers))
		for i := range want.Layers {
			requireNear(t, want.Layers[i], got.Layers[i], 0.02, "layer %d of %d tokens", i, len(ids))
		}
		requireNear(t, want.Logits, got.Logits, 0.02, "logits of %d tokens", len(ids))
	}
	equal, total := 0, 0
	for _, prompt := range testenv.Texts(t)[:8] {
		a, _ := collect(t, exact, prompt, nil)
		b, _ := collect(t, fused, prompt, nil)
		same := slices.Compare(a, b)
		n := commonLength(a, b)
		equal, total = equal+n, total+len(a)
		t.Logf("%d of %d greedy tokens before the first difference (%d)", n, len(a), same)
	}
	t.Logf("%d of %d tokens", equal, total)
}

// requireNear bounds ||got - want|| / ||want||.
func requireNear(t *testing.T, want, got []float32, bound float64, format string, args ...any) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	var difference, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		difference, norm = difference+d*d, norm+float64(want[i])*float64(want[i])
	}
	relative := math.Sqrt(difference / norm)
	t.Logf(format+": relative difference %.2g", append(args, relative)...)
	require.Less(t, relative, bound)
}
