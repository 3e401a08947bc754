//go:build cuda

package native

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// `make test-cuda`, on a machine with an NVIDIA GPU: the fused kernels compute what MLX's own ops do.
func TestFusedKernelsComputeWhatMLXDoes(t *testing.T) {
	fused, exact := openFusedAndExact(t)
	for _, text := range []string{"Where can I find", strings.Repeat(testenv.Texts(t)[0]+" ", 40)} {
		ids, err := exact.Encode(t.Context(), text, true)
		require.NoError(t, err)
		want, err := exact.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1})
		require.NoError(t, err)
		got, err := fused.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1})
		require.NoError(t, err)
		require.Len(t, got.Layers, len(want.Layers))
		for i := range want.Layers {
			requireNear(t, want.Layers[i], got.Layers[i], 0.01, "layer %d of %d tokens", i, len(ids))
		}
		requireNear(t, want.Logits, got.Logits, 0.01, "logits of %d tokens", len(ids))
	}
	equal, total := 0, 0
	for _, prompt := range testenv.Texts(t)[:8] {
		a, _ := collect(t, exact, prompt, nil)
		b, _ := collect(t, fused, prompt, nil)
		n := kv.CommonLength(a, b)
		equal, total = equal+n, total+len(a)
	}
	t.Logf("%d of %d greedy tokens before the first difference", equal, total)
	require.Greater(t, equal, total/2)
}

// Tokens of a compiled pass are those of MLX's own ops, after texts of any length and over the edge of a sliding window.
func TestACompiledPassIsWhatMLXComputes(t *testing.T) {
	for _, name := range []string{"domains", "assistant"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(testenv.Root(), "tests", "models", name)
			fused, exact := openPath(t, dir, engine.NativeOptions{}), openPath(t, dir, engine.NativeOptions{Exact: true})
			for _, length := range []int{2, 31, 65, 300} {
				ids := someIDs(t, exact, length)
				want, chosen := decodeWith(t, exact, ids, nil, 24)
				got, tokens := decodeWith(t, fused, ids, chosen, 24)
				largest := 0.0
				for i := range want {
					largest = max(largest, testenv.RelativeDifference(want[i], got[i]))
				}
				t.Logf("after %d tokens: logits differ by at most %.2g", length, largest)
				require.Equal(t, chosen, tokens, "greedy tokens after %d", length)
			}
		})
	}
}

// A compiled pass over a packed row gives the labels and, but for rounding, the scores of plain batches.
func TestPackedTextsScoreAsBatchesDo(t *testing.T) {
	fused, exact := openFusedAndExact(t)
	for name, labels := range map[string][]string{
		"one token": testenv.Labels(t), "several tokens": {"a long journey", "food", "the law and its courts"},
	} {
		options := engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt}
		largest := 0.0
		for _, n := range []int{1, 3} {
			for texts := range slices.Chunk(testenv.Texts(t)[:30], n) {
				want, err := exact.Classify(t.Context(), texts, options)
				require.NoError(t, err)
				got, err := fused.Classify(t.Context(), texts, options)
				require.NoError(t, err)
				for i := range want {
					for l := range labels {
						largest = max(largest, math.Abs(got[i].Scores[l].Score-want[i].Scores[l].Score))
					}
					if want[i].Margin > 0.2 { // of random weights, labels are within rounding of each other
						require.Equal(t, want[i].Label, got[i].Label)
					}
				}
			}
		}
		t.Logf("%s: largest difference of a score %.2g", name, largest)
		if benchModel(t) == testenv.Model(t) {
			require.Less(t, largest, 0.25)
		}
	}
}

// openFusedAndExact loads the model twice, and checks that nothing is left when both are closed.
func openFusedAndExact(t *testing.T) (fused, exact *Model) {
	before := mlxtest.Measure(t)
	var err error
	fused, err = Load(t.Context(), benchModel(t), engine.NativeOptions{})
	require.NoError(t, err)
	exact, err = Load(t.Context(), benchModel(t), engine.NativeOptions{Exact: true})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, fused.Close())
		require.NoError(t, exact.Close())
		require.Equal(t, before, mlxtest.Measure(t), "handles and active bytes after Close")
	})
	require.NotNil(t, fused.network.CUDA, "the kernels do not serve this model")
	return fused, exact
}

// requireNear bounds ||got - want|| / ||want||.
func requireNear(t *testing.T, want, got []float32, bound float64, format string, args ...any) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	relative := testenv.RelativeDifference(want, got)
	t.Logf(format+": relative difference %.2g", append(args, relative)...)
	if benchModel(t) == testenv.Model(t) { // many layers of random weights amplify rounding without bound
		require.Less(t, relative, bound)
	}
}

// A process lives through more different lengths than MLX's caches of attention plans have places; see mlxc's cudacaches.go.
func TestRequestsOfManyLengthsGoOn(t *testing.T) {
	m := openWith(t, engine.NativeOptions{Exact: true})
	for length := 2; length < 600; length++ {
		_, err := m.PromptLogProbs(t.Context(), someIDs(t, m, length), 0)
		require.NoError(t, err, "%d tokens", length)
	}
}
