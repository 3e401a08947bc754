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
func withTrainer(t *testing.T, o engine.TrainOptions, work func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error) {
	t.Helper()
	m := openWith(t, engine.NativeOptions{Exact: true})
	batches, _, err := m.readData(o)
	require.NoError(t, err)
	before := measure(t)
	tr := newTrainer(m, o)
	require.NoError(t, m.do(t.Context(), func() (err error) {
		s := m.lease.NewScope()
		_, err = tr.open()
		if err == nil {
			err = work(tr, s, batches)
		}
		return errors.Join(err, s.Close(), tr.close(), mlxc.ClearCache())
	}))
	require.Equal(t, before, measure(t), "handles and active bytes after training")
}

// Loss, gradients and the first update are those of mlx-lm's tuner.
func TestAStepIsThatOfMLXLMsTuner(t *testing.T) {
	o := trainOptions(t)
	withTrainer(t, o, func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error {
		b := &batches[len(batches)-1]
		for _, l := range tr.all { // B of zeros would make A's gradients zeros
			old := l.B
			l.B = s.Keep(s.Normal(mlxc.Float32, 0.02, s.RandomKey(5), old.Shape()...))
			if err := errors.Join(s.Eval(l.B), old.Free()); err != nil {
				return err
			}
		}
		if err := saveAdapter(s, o.Out, tr.adapter, tr.loras, ""); err != nil {
			return err
		}
		var ids [][]int32
		var lengths [][2]int
		for row := range b.rows {
			tokens := append(slices.Clone(b.ids[row*b.length:][:b.length]), 0) // the last one is no input
			first, last := 0, 0
			for i, pick := range b.picks {
				if at := int(pick) - row*b.length; at >= 0 && at < b.length {
					if last = at + 1; first == 0 {
						first = at + 1
					}
					require.Contains(t, []int32{tokens[at+1], 0}, b.targets[i])
					tokens[at+1] = b.targets[i]
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
		values, gradients := tr.gradients.Call(s, tr.inputs(s, b)...)
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
			for i, l := range tr.loras {
				for k, part := range []string{".lora_a", ".lora_b"} {
					got, err := arrays[2*i+k].Floats()
					if err != nil {
						return err
					}
					expected := want[kind+"."+l.layer+part]
					require.Len(t, expected, len(got), "%s of %s%s", kind, l.layer, part)
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
		if err := tr.apply(s, gradients, 1e-3); err != nil {
			return err
		}
		largest = 0
		err = compare("updated", tr.trained())
		t.Logf("largest relative difference of an updated parameter %.2g", largest)
		require.Less(t, largest, 0.02)
		return err
	})
}

func TestCheckpointsChangeNoGradient(t *testing.T) {
	var plain [][]float32
	for _, checkpoint := range []bool{false, true} {
		o := trainOptions(t)
		o.Checkpoint = checkpoint
		withTrainer(t, o, func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error {
			longest := &batches[len(batches)-1] // longer than the sliding window, so that there are masks
			require.Greater(t, longest.length, 32)
			_, gradients := tr.gradients.Call(s, tr.inputs(s, longest)...)
			if err := s.Err(); err != nil {
				return err
			}
			for i, g := range gradients {
				got, err := g.Floats()
				if err != nil {
					return err
				}
				if !checkpoint {
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
		withTrainer(t, o, func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error {
			var sum, total float64
			for i := range batches {
				b := &batches[i]
				if last := len(b.picks) - 1; !packed { // without mlx-lm's prediction of the padding
					b.picks, b.targets = b.picks[:last], b.targets[:last]
				}
				out := call(tr.valued, tr.loss, s, tr.inputs(s, b))
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
	for _, checkpoint := range []bool{false, true} {
		t.Run(fmt.Sprintf("checkpoint=%v", checkpoint), func(t *testing.T) { testAResumedRunIsAnUnbrokenOne(t, checkpoint) })
	}
}

func testAResumedRunIsAnUnbrokenOne(t *testing.T, checkpoint bool) {
	before := measure(t)
	o := trainOptions(t)
	o.Iterations, o.Accumulate, o.Schedule, o.Warmup, o.EvalEvery, o.Checkpoint = 9, 2, "cosine", 1, 3, checkpoint
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
	a, err := safetensors.ReadFloats(filepath.Join(o.Out, adapterWeightsFile))
	require.NoError(t, err)
	b, err := safetensors.ReadFloats(filepath.Join(broken.Out, adapterWeightsFile))
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.Equal(t, before, measure(t))

	other := broken
	other.Rank = 4
	_, err = Train(t.Context(), testenv.Model(t), other)
	require.ErrorContains(t, err, "trained with others")
	other = broken
	other.Seed = 9
	_, err = Train(t.Context(), testenv.Model(t), other)
	require.ErrorContains(t, err, "seed")
	require.Equal(t, before, measure(t))
}

func TestTrainingRefusesWhatItCannotDo(t *testing.T) {
	before := measure(t)
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
		"no UTF-8": {func(t *testing.T, o *engine.TrainOptions) {
			require.NoError(t, os.WriteFile(filepath.Join(o.Data, "train.jsonl"), []byte("\ufeff{\"text\": \"a\"}\r\n\r\n{\"text\": \"\xe9t\xe9\"}\r\n"), 0o644))
		}, "line 3: text is not valid UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			o := trainOptions(t)
			c.change(t, &o)
			_, err := Train(t.Context(), testenv.Model(t), o)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.Equal(t, before, measure(t))
}
