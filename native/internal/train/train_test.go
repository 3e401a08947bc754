package train

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
)

// open loads a model and its tokenizer, and checks at the end of the test that closing gives every byte back.
func open(t *testing.T, dir string, options engine.NativeOptions) (*decoder.Network, *prompt.Encoder) {
	t.Helper()
	before := mlxtest.Measure(t)
	from, err := modelfiles.Find(dir)
	require.NoError(t, err)
	config, err := checkpoint.ReadConfig(from)
	require.NoError(t, err)
	e := prompt.NewEncoder(config.EOS)
	require.NoError(t, e.Load(from))
	o, err := owner.NewOwner(0)
	require.NoError(t, err)
	n := &decoder.Network{Owner: o, Training: true}
	t.Cleanup(func() {
		var closed error
		require.NoError(t, o.Lease.Release(func() { closed = n.Close() }))
		e.Close()
		require.NoError(t, closed)
		require.Equal(t, before, mlxtest.Measure(t), "handles and active bytes")
	})
	require.NoError(t, o.Do(t.Context(), func() error {
		_, err := n.Load(from, config, "", options)
		return err
	}))
	e.VocabSize, e.Context = n.Shape.VocabSize, config.Context
	return n, e
}

// withTrainer opens a trainer for the trained model and lets work use it on the owner thread.
func withTrainer(t *testing.T, o engine.TrainOptions, work func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error) {
	t.Helper()
	withTrainerOf(t, testenv.Model(t), o, work)
}

// withTrainerOf is withTrainer for the model in a folder.
func withTrainerOf(t *testing.T, dir string, o engine.TrainOptions, work func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error) {
	t.Helper()
	n, e := open(t, dir, engine.NativeOptions{Exact: o.Exact})
	batches, _, err := ReadData(t.Context(), e, o)
	require.NoError(t, err)
	before := mlxtest.Measure(t)
	tr := newTrainer(n, e, dir, o)
	require.NoError(t, n.Do(t.Context(), func() (err error) {
		s := n.Lease.NewScope()
		_, err = tr.open()
		if err == nil {
			err = work(tr, s, batches)
		}
		return errors.Join(err, s.Close(), tr.close(), mlxc.ClearCache())
	}))
	require.Equal(t, before, mlxtest.Measure(t), "handles and active bytes after training")
}

// eachWay runs a test with MLX's ops and with the kernels that the device has.
func eachWay(t *testing.T, test func(t *testing.T, exact bool)) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exact), func(t *testing.T) { test(t, exact) })
	}
}

// drawB replaces B, whose zeros would make A's gradients zeros.
func drawB(tr *trainer, s *mlxc.Scope) error {
	for i, l := range tr.all {
		old := l.B
		l.B = s.Keep(s.Normal(mlxc.Float32, 0.02, s.RandomKey(uint64(5+i)), old.Shape()...))
		if err := errors.Join(s.Eval(l.B), old.Free()); err != nil {
			return err
		}
	}
	return nil
}

// Loss, gradients and the first update are those of mlx-lm's tuner.
func TestAStepIsThatOfMLXLMsTuner(t *testing.T) {
	testenv.Python(t) // a test is not skipped on the owner thread
	o := mlxtest.TrainOptions(t)
	o.Exact = true
	withTrainer(t, o, func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error {
		b := &batches[len(batches)-1]
		if err := drawB(tr, s); err != nil {
			return err
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
		out := tr.lossAndGradients(s, tr.inputs(s, b))
		if err := s.Err(); err != nil {
			return err
		}
		values, gradients := out[:2], out[2:]
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

func TestCheckpointsChangeNoGradient(t *testing.T) { eachWay(t, testCheckpointsChangeNoGradient) }

func testCheckpointsChangeNoGradient(t *testing.T, exact bool) {
	var plain [][]float32
	for _, checkpointed := range []bool{false, true} {
		o := mlxtest.TrainOptions(t)
		o.Checkpoint, o.Exact = checkpointed, exact
		withTrainer(t, o, func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error {
			longest := &batches[len(batches)-1] // longer than the sliding window, so that there are masks
			require.Greater(t, longest.length, 32)
			if err := drawB(tr, s); err != nil {
				return err
			}
			out := tr.lossAndGradients(s, tr.inputs(s, longest))
			if err := s.Err(); err != nil {
				return err
			}
			for i, g := range out[2:] {
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
	eachWay(t, testPackedRowsHaveTheLossOfTheirExamples)
}

func testPackedRowsHaveTheLossOfTheirExamples(t *testing.T, exact bool) {
	losses := map[bool]float64{}
	for _, packed := range []bool{false, true} {
		o := mlxtest.TrainOptions(t)
		o.Packed, o.BatchSize, o.MaxSeqLength, o.Exact = packed, 1, 256, exact
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
