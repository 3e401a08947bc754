package parity

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/parity"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native"
)

// An adapter that native trained works in mlx-lm, one that mlx-lm's tuner trained works in native, and both engines
// compute the same with either.
func TestAdaptersGoBothWays(t *testing.T) {
	data := t.TempDir()
	var lines strings.Builder
	for _, s := range testenv.Heldout(t)[:16] {
		line, err := json.Marshal(map[string]string{"prompt": s.Text, "completion": s.Domain})
		require.NoError(t, err)
		fmt.Fprintln(&lines, string(line))
	}
	for _, name := range []string{"train.jsonl", "valid.jsonl"} {
		require.NoError(t, os.WriteFile(filepath.Join(data, name), []byte(lines.String()), 0o644))
	}
	o := mlx.DefaultTrainOptions()
	o.Data, o.Out, o.Iterations, o.LearningRate, o.NumLayers, o.EvalEvery = data, t.TempDir(), 4, 1e-2, 3, 0
	result, err := mlx.Train(t.Context(), testenv.Model(t), o)
	require.NoError(t, err)
	require.Len(t, result.Losses, 4)

	theirs := t.TempDir()
	tool, err := bridge.NewTool(testenv.Python(t))
	require.NoError(t, err)
	_, err = tool.Run(t.Context(), "-m", "mlx_lm", "lora", "--train", "--model", testenv.Model(t), "--data", data, "--adapter-path", theirs,
		"--iters", "4", "--learning-rate", "1e-2", "--num-layers", "2", "--val-batches", "1", "--batch-size", "4")
	require.NoError(t, err)

	for name, adapter := range map[string]string{"native's": o.Out, "mlx-lm's": theirs} {
		first, err := native.Load(t.Context(), testenv.Model(t), engine.NativeOptions{Adapter: adapter, Exact: true})
		require.NoError(t, err, name)
		second, err := bridge.Load(t.Context(), testenv.Model(t), bridge.Options{Python: testenv.Python(t), Adapter: adapter})
		require.NoError(t, err, name)
		report, err := parity.Run(t.Context(), first, second, parity.Options{Prompts: testenv.Texts(t)[:2], Labels: testenv.Labels(t), Tokens: 10, Rows: 2})
		require.NoError(t, err)
		require.True(t, report.Passed, "%s: %v", name, report.Failures())
		require.Nil(t, report.Diverging, name)
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
	}
}
