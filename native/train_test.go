package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
	"forge.lthn.ai/core/go-mlx/native/internal/train"
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

func trainOptions(t *testing.T) engine.TrainOptions {
	o := engine.DefaultTrainOptions()
	o.Data, o.Out = trainData(t, 40), t.TempDir()
	o.Iterations, o.BatchSize, o.LearningRate, o.NumLayers, o.MaskPrompt = 4, 4, 1e-3, 3, true
	return o
}

// withTrainer opens a trainer and lets work use it on the owner thread.
func withTrainer(t *testing.T, o engine.TrainOptions, work func(tr *train.Trainer, s *mlxc.Scope, batches []train.TrainBatch) error) {
	t.Helper()
	m := openWith(t, engine.NativeOptions{Exact: true})
	batches, _, err := train.ReadData(m.encoder, o)
	require.NoError(t, err)
	before := mlxtest.Measure(t)
	tr := train.NewTrainer(m.network, m.encoder, m.info.Path, o)
	require.NoError(t, m.owner.Do(t.Context(), func() (err error) {
		s := m.owner.Lease.NewScope()
		_, err = tr.Open()
		if err == nil {
			err = work(tr, s, batches)
		}
		return errors.Join(err, s.Close(), tr.Close(), mlxc.ClearCache())
	}))
	require.Equal(t, before, mlxtest.Measure(t), "handles and active bytes after training")
}

// Loss, gradients and the first update are those of mlx-lm's tuner.
func TestAStepIsThatOfMLXLMsTuner(t *testing.T) {
	o := trainOptions(t)
	withTrainer(t, o, func(tr *train.Trainer, s *mlxc.Scope, batches []train.TrainBatch) error {
		b := &batches[len(batches)-1]
		for _, l := range tr.All { // B of zeros would make A's gradients zeros
			old := l.B
			l.B = s.Keep(s.Normal(mlxc.Float32, 0.02, s.RandomKey(5), old.Shape()...))
			if err := errors.Join(s.Eval(l.B), old.Free()); err != nil {
				return err
			}
		}
		if err := train.SaveAdapter(s, o.Out, tr.Adapter, tr.Loras, ""); err != nil {
			return err
		}
		var ids [][]int32
		var lengths [][2]int
		for row := range b.Rows {
			tokens := append(slices.Clone(b.IDs[row*b.Length:][:b.Length]), 0) // the last one is no input
			first, last := 0, 0
			for i, pick := range b.Picks {
				if at := int(pick) - row*b.Length; at >= 0 && at < b.Length {
					if last = at + 1; first == 0 {
						first = at + 1
					}
					require.Contains(t, []int32{tokens[at+1], 0}, b.Targets[i])
					tokens[at+1] = b.Targets[i]
				}
			}
			ids, lengths = append(ids, tokens), append(lengths, [2]int{first, last})
		}
		file := filepath.Join(o.Out, "step.safetensors")
		var n int
		testenv.RunPython(t, "lora_step.py", map[string]any{"ids": ids, "lengths": lengths, "rate": 1e-3, "decay": 0.01}, &n, testenv.Model(t), o.Out, file)
		want, err := safetensors.ReadFloats(file)
		if err != nil {
			return err
		}
		values, gradients := tr.Gradients.Call(s, tr.Inputs(s, b)...)
		if err := s.Err(); err != nil {
			return err
		}
		loss, err := values[0].Float()
		if err != nil {
			return err
		}
		require.EqualValues(t, want["tokens"][0], func() int { n, _ := values[1].Int(); return n }())
		require.InDelta(t, want["loss"][0], loss, 0.01) // on CUDA mlx-lm has a kernel of its own for it
		largest := 0.0
		compare := func(kind string, arrays []*mlxc.Array) error {
			for i, l := range tr.Loras {
				for k, part := range []string{".lora_a", ".lora_b"} {
					got, err := arrays[2*i+k].Floats()
					if err != nil {
						return err
					}
					expected := want[kind+"."+l.Layer+part]
					require.Len(t, expected, len(got), "%s of %s%s", kind, l.Layer, part)
					largest = max(largest, testenv.RelativeDifference(expected, got))
				}
			}
			return nil
		}
		if err := compare("gradient", gradients); err != nil {
			return err
		}
		t.Logf("loss %v, largest relative difference of a gradient %.2g", loss, largest)
		require.Less(t, largest, 0.02)
		if err := tr.Apply(s, gradients, 1e-3); err != nil {
			return err
		}
		largest = 0
		err = compare("updated", tr.Trained())
		t.Logf("largest relative difference of an updated parameter %.2g", largest)
		require.Less(t, largest, 0.02)
		return err
	})
}

func TestCheckpointsChangeNoGradient(t *testing.T) {
	var plain [][]float32
	for _, checkpointed := range []bool{false, true} {
		o := trainOptions(t)
		o.Checkpoint = checkpointed
		withTrainer(t, o, func(tr *train.Trainer, s *mlxc.Scope, batches []train.TrainBatch) error {
			longest := &batches[len(batches)-1] // longer than the sliding window, so that there are masks
			require.Greater(t, longest.Length, 32)
			_, gradients := tr.Gradients.Call(s, tr.Inputs(s, longest)...)
			if err := s.Err(); err != nil {
				return err
			}
			for i, g := range gradients {
				got, err := g.Floats()
				if err != nil {
					return err
				}
				if !checkpointed {
					plain = append(plain, got)
					continue
				}
				require.Equal(t, plain[i], got)
			}
			return nil
		})
	}
}

// A packed row's loss is that of its examples in rows of their own.
func TestPackedRowsHaveTheLossOfTheirExamples(t *testing.T) {
	losses := map[bool]float64{}
	for _, packed := range []bool{false, true} {
		o := trainOptions(t)
		o.Packed, o.BatchSize, o.MaxSeqLength = packed, 1, 256
		withTrainer(t, o, func(tr *train.Trainer, s *mlxc.Scope, batches []train.TrainBatch) error {
			var sum, total float64
			for i := range batches {
				b := &batches[i]
				if last := len(b.Picks) - 1; !packed { // without mlx-lm's prediction of the padding
					b.Picks, b.Targets = b.Picks[:last], b.Targets[:last]
				}
				out := train.Call(tr.Valued, tr.Loss, s, tr.Inputs(s, b))
				if err := s.Err(); err != nil {
					return err
				}
				loss, err := out[0].Float()
				if err != nil {
					return err
				}
				n, err := out[1].Int()
				if err != nil {
					return err
				}
				sum, total = sum+float64(loss)*float64(n), total+float64(n)
			}
			if packed {
				require.Less(t, len(batches), 16, "several in a row")
			}
			losses[packed] = sum / total
			return nil
		})
	}
	require.InDelta(t, losses[false], losses[true], 0.01)
}

func TestAResumedRunIsAnUnbrokenOne(t *testing.T) {
	for _, checkpointed := range []bool{false, true} {
		t.Run(fmt.Sprintf("checkpoint=%v", checkpointed), func(t *testing.T) { testAResumedRunIsAnUnbrokenOne(t, checkpointed) })
	}
}

func testAResumedRunIsAnUnbrokenOne(t *testing.T, checkpointed bool) {
	before := mlxtest.Measure(t)
	o := trainOptions(t)
	o.Iterations, o.Accumulate, o.Schedule, o.Warmup, o.EvalEvery, o.Checkpoint = 9, 2, "cosine", 1, 3, checkpointed
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

func TestTrainingRefusesWhatItCannotDo(t *testing.T) {
	before := mlxtest.Measure(t)
	for name, c := range map[string]struct {
		change func(t *testing.T, o *engine.TrainOptions)
		want   string
	}{
		"no data":        {func(t *testing.T, o *engine.TrainOptions) { o.Data = t.TempDir() }, "fewer than a batch"},
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
	} {
		t.Run(name, func(t *testing.T) {
			o := trainOptions(t)
			c.change(t, &o)
			_, err := Train(t.Context(), testenv.Model(t), o)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.Equal(t, before, mlxtest.Measure(t))
}
