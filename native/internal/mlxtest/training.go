package mlxtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// trainData writes the first sentences of the held-out set as completions.
func trainData(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	var train, valid strings.Builder
	for i, s := range testenv.Heldout(t)[:n] {
		line, err := json.Marshal(map[string]string{"prompt": s.Text, "completion": s.Domain})
		require.NoError(t, err)
		if i%5 == 4 {
			fmt.Fprintln(&valid, string(line))
		} else {
			fmt.Fprintln(&train, string(line))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "train.jsonl"), []byte(train.String()), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "valid.jsonl"), []byte(valid.String()), 0o644))
	return dir
}

// TrainOptions is a short training on them.
func TrainOptions(t *testing.T) engine.TrainOptions {
	o := engine.DefaultTrainOptions()
	o.Data, o.Out = trainData(t, 40), t.TempDir()
	o.Iterations, o.BatchSize, o.LearningRate, o.NumLayers, o.MaskPrompt = 4, 4, 1e-3, 3, true
	return o
}
