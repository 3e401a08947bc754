//go:build long

// Package training shows what a LoRA run does to the trained model: `make test-training`, about ten minutes.
package training

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// accuracy is the share of lines of LANGUAGE<tab>LABEL<tab>TEXT that are classified right.
func accuracy(t *testing.T, file, adapter string, labels []string) float64 {
	t.Helper()
	options := []mlx.LoadOption{mlx.WithEngine(mlx.EngineNative)}
	if adapter != "" {
		options = append(options, mlx.WithAdapter(adapter))
	}
	m, err := mlx.LoadModel(testenv.Model(t), options...)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	data, err := os.ReadFile(filepath.Join(testenv.Root(), "tests", "corpus", file))
	require.NoError(t, err)
	var texts, want []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		want, texts = append(want, fields[1]), append(texts, fields[2])
	}
	results, err := m.Classify(t.Context(), texts, labels)
	require.NoError(t, err)
	right := 0
	for i, r := range results {
		if r.Label == want[i] {
			right++
		}
	}
	return float64(right) / float64(len(texts))
}

// The model learns two domains that it has never seen, from sentences of frames, and is asked about hand-written ones. With 1.4
// million parameters it forgets some of the eight that it knows, though half of what it is trained on is of these.
func TestTwoNewDomainsAreLearned(t *testing.T) {
	data := t.TempDir()
	out, err := exec.Command(testenv.Python(t), filepath.Join(testenv.Root(), "tests", "models", "new_domains.py"), data).CombinedOutput()
	require.NoError(t, err, string(out))
	labels := append(testenv.Labels(t), "car", "art")
	o := mlx.DefaultTrainOptions()
	o.Data, o.Out = data, t.TempDir()
	o.Iterations, o.BatchSize, o.Packed, o.MaxSeqLength, o.MaskPrompt = 160, 4, true, 257, true
	o.LearningRate, o.Schedule, o.Warmup, o.NumLayers, o.Scale, o.EvalEvery = 1e-3, "cosine", 5, 0, 2, 0
	o.Progress = func(p mlx.TrainProgress) {
		if p.Iteration%20 == 0 {
			fmt.Printf("iteration %d: loss %.3f, %.0f s\n", p.Iteration, p.Loss, p.Seconds)
		}
	}
	_, err = mlx.Train(t.Context(), testenv.Model(t), o)
	require.NoError(t, err)
	newBefore, newAfter := accuracy(t, "new/heldout.tsv", "", labels), accuracy(t, "new/heldout.tsv", o.Out, labels)
	oldBefore, oldAfter := accuracy(t, "heldout.tsv", "", labels), accuracy(t, "heldout.tsv", o.Out, labels)
	fmt.Printf("| held-out sentences | before | after |\n|---|---|---|\n| two new domains | %.1f %% | %.1f %% |\n| the eight known ones | %.1f %% | %.1f %% |\n",
		100*newBefore, 100*newAfter, 100*oldBefore, 100*oldAfter)
	require.Greater(t, newAfter, newBefore+0.4)
	require.Greater(t, oldAfter, 0.5)
}

func TestMemoryIsFlatOverAThousandSteps(t *testing.T) {
	data := t.TempDir()
	var lines strings.Builder
	for i := range 8 {
		fmt.Fprintf(&lines, "{\"text\": \"Sentence number %d.\"}\n", i)
	}
	require.NoError(t, os.WriteFile(filepath.Join(data, "train.jsonl"), []byte(lines.String()), 0o644))
	o := mlx.DefaultTrainOptions()
	o.Data, o.Out, o.BatchSize, o.NumLayers, o.Accumulate, o.SaveEvery = data, t.TempDir(), 1, 0, 2, 250
	var active, peak []int64 // after the updates
	o.Progress = func(p mlx.TrainProgress) {
		if p.Iteration%2 == 0 {
			active, peak = append(active, p.ActiveBytes), append(peak, p.PeakBytes)
		}
	}
	_, err := mlx.Train(t.Context(), testenv.Model(t), o)
	require.NoError(t, err)
	require.Len(t, active, 500)
	fmt.Printf("active bytes after iteration 20: %d, 500: %d, 1000: %d; peak %d, %d\n", active[9], active[249], active[499], peak[9], peak[499])
	require.Equal(t, active[9], active[499])
	require.Equal(t, peak[9], peak[499])
}
