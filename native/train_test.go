package native

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

func TestAResumedRunIsAnUnbrokenOne(t *testing.T) {
	for _, exact := range []bool{false, true} {
		for _, checkpointed := range []bool{false, true} {
			t.Run(fmt.Sprintf("exact=%v, checkpoint=%v", exact, checkpointed), func(t *testing.T) { testAResumedRunIsAnUnbrokenOne(t, exact, checkpointed) })
		}
	}
}

func testAResumedRunIsAnUnbrokenOne(t *testing.T, exact, checkpointed bool) {
	before := mlxtest.Measure(t)
	o := mlxtest.TrainOptions(t)
	o.Iterations, o.Accumulate, o.Schedule, o.Warmup, o.EvalEvery, o.Checkpoint, o.Exact = 9, 2, "cosine", 1, 3, checkpointed, exact
	whole, err := Train(t.Context(), testenv.Model(t), o)
	require.NoError(t, err)
	require.Len(t, whole.Losses, 9)
	require.Len(t, whole.Validation, 3)
	broken := o
	broken.Out, broken.SaveEvery = t.TempDir(), 5
	ctx, cancel := context.WithCancel(t.Context())
	broken.Progress = func(p engine.TrainProgress) {
		if p.Iteration == 6 {
			cancel()
		}
	}
	_, err = Train(ctx, testenv.Model(t), broken)
	require.ErrorIs(t, err, context.Canceled)
	broken.Resume, broken.Progress = true, nil
	rest, err := Train(t.Context(), testenv.Model(t), broken)
	require.NoError(t, err)
	require.Equal(t, whole.Losses[5:], rest.Losses)
	a, err := safetensors.ReadFloats(filepath.Join(o.Out, checkpoint.AdapterWeightsFile))
	require.NoError(t, err)
	b, err := safetensors.ReadFloats(filepath.Join(broken.Out, checkpoint.AdapterWeightsFile))
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.Equal(t, before, mlxtest.Measure(t))

	other := broken
	other.Rank = 4
	_, err = Train(t.Context(), testenv.Model(t), other)
	require.ErrorContains(t, err, "trained with others")
	other = broken
	other.Seed = 9
	_, err = Train(t.Context(), testenv.Model(t), other)
	require.ErrorContains(t, err, "seed")
	require.Equal(t, before, mlxtest.Measure(t))
}

// With the CPU kernels a model learns what it learns in float32, and its losses stay as near to those as with MLX's own ops.
func TestBothWaysOfTrainingLearnTheSame(t *testing.T) {
	losses := func(dir string, exact bool) (all []float64) {
		o := mlxtest.TrainOptions(t)
		o.Iterations, o.EvalEvery, o.NumLayers, o.LearningRate, o.Exact = 8, 8, 0, 1e-4, exact
		result, err := Train(t.Context(), dir, o)
		require.NoError(t, err)
		require.Len(t, result.Validation, 1)
		return append(result.Losses, result.Validation...)
	}
	kernels, exact, want := losses(testenv.Model(t), false), losses(testenv.Model(t), true), losses(testenv.InFloat32(t, testenv.Model(t)), true)
	t.Logf("losses, then validations, with the kernels %.4v, with MLX's ops %.4v, in float32 %.4v", kernels, exact, want)
	var ours, theirs float64
	for i := range want {
		ours, theirs = ours+math.Abs(kernels[i]-want[i])/float64(len(want)), theirs+math.Abs(exact[i]-want[i])/float64(len(want))
	}
	t.Logf("mean difference from float32: %.2g with the kernels, %.2g with MLX's ops", ours, theirs)
	require.LessOrEqual(t, ours, theirs+0.01)
	require.Less(t, kernels[7], kernels[0]-1)
}

func TestTrainingRefusesWhatItCannotDo(t *testing.T) {
	before := mlxtest.Measure(t)
	for name, c := range map[string]struct {
		change func(t *testing.T, o *engine.TrainOptions)
		want   string
	}{
		"no data":        {func(t *testing.T, o *engine.TrainOptions) { o.Data = t.TempDir() }, "train.jsonl: no such file"},
		"large batch":    {func(_ *testing.T, o *engine.TrainOptions) { o.BatchSize = 100 }, "fewer than a batch"},
		"unknown layer":  {func(_ *testing.T, o *engine.TrainOptions) { o.Keys = []string{"self_attn.z_proj"} }, "z_proj"},
		"schedule":       {func(_ *testing.T, o *engine.TrainOptions) { o.Schedule = "steps" }, "Schedule"},
		"rank":           {func(_ *testing.T, o *engine.TrainOptions) { o.Rank = 0 }, "Rank"},
		"rate":           {func(_ *testing.T, o *engine.TrainOptions) { o.LearningRate = math.NaN() }, "LearningRate"},
		"nothing saved":  {func(_ *testing.T, o *engine.TrainOptions) { o.Resume = true }, "resume"},
		"infinite steps": {func(_ *testing.T, o *engine.TrainOptions) { o.LearningRate, o.Iterations = 1e30, 20 }, "lower the learning rate"},
		"broken line": {func(t *testing.T, o *engine.TrainOptions) {
			require.NoError(t, os.WriteFile(filepath.Join(o.Data, "train.jsonl"), []byte("{\"text\": \"a\"}\n{\"txt\": 1}\n"), 0o644))
		}, "line 2"},
		"no UTF-8": {func(t *testing.T, o *engine.TrainOptions) {
			require.NoError(t, os.WriteFile(filepath.Join(o.Data, "train.jsonl"), []byte("\ufeff{\"text\": \"a\"}\r\n\r\n{\"text\": \"\xe9t\xe9\"}\r\n"), 0o644))
		}, "line 3: text is not valid UTF-8"},
		"UTF-16": {func(t *testing.T, o *engine.TrainOptions) {
			require.NoError(t, os.WriteFile(filepath.Join(o.Data, "train.jsonl"), []byte("\xff\xfe{\x00}\x00\n\x00"), 0o644))
		}, "line 1: text is not valid UTF-8, it looks like UTF-16: save it as UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			o := mlxtest.TrainOptions(t)
			c.change(t, &o)
			_, err := Train(t.Context(), testenv.Model(t), o)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.Equal(t, before, mlxtest.Measure(t))
}
