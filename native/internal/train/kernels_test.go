package train

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// passOf is the loss and the gradients of a batch with LoRAs that are the same for a seed.
func passOf(t *testing.T, dir string, o engine.TrainOptions) (loss float64, gradients [][]float32) {
	t.Helper()
	withTrainerOf(t, dir, o, func(tr *trainer, s *mlxc.Scope, batches []trainBatch) error {
		if err := drawB(tr, s); err != nil {
			return err
		}
		out := tr.lossAndGradients(s, tr.inputs(s, &batches[len(batches)-1]))
		if err := s.Err(); err != nil {
			return err
		}
		value, err := out[0].Float()
		if err != nil {
			return err
		}
		loss = float64(value)
		for _, g := range out[2:] {
			v, err := g.Floats()
			if err != nil {
				return err
			}
			gradients = append(gradients, v)
		}
		return nil
	})
	return loss, gradients
}

// The loss and every gradient are as near to those of the same weights in float32 as MLX's own ops come, or nearer: plain weights
// and packed ones, of two families, in rows and packed rows.
func TestGradientsOfTheKernelsAreAsNearToFloat32AsMLXs(t *testing.T) {
	for _, model := range []string{"domains", "assistant"} {
		dir := filepath.Join(testenv.Root(), "tests", "models", model)
		for kind, dir := range map[string]string{
			"plain": dir, "4 bits": mlxtest.Packed(t, dir, mlxc.Quantization{Bits: 4, GroupSize: 32}),
		} {
			for _, packed := range []bool{false, true} {
				t.Run(model+", "+kind+map[bool]string{true: ", packed rows"}[packed], func(t *testing.T) {
					o := mlxtest.TrainOptions(t)
					o.NumLayers, o.MaskPrompt, o.Packed, o.BatchSize, o.MaxSeqLength = 0, false, packed, 2, 96
					loss, got := passOf(t, dir, o)
					o.Exact = true
					exactLoss, exact := passOf(t, dir, o)
					wantLoss, want := passOf(t, testenv.InFloat32(t, dir), o)
					ours, theirs, worst := 0.0, 0.0, 0.0
					for i := range want {
						mine, other := testenv.RelativeDifference(want[i], got[i]), testenv.RelativeDifference(want[i], exact[i])
						ours, theirs, worst = ours+mine/float64(len(want)), theirs+other/float64(len(want)), max(worst, mine/other)
						require.Less(t, mine, 0.1, "gradient %d", i)
					}
					t.Logf("loss %.5f with the kernels, %.5f with MLX's ops, %.5f in float32; mean error of a gradient %.3g and %.3g, worst ratio %.2f",
						loss, exactLoss, wantLoss, ours, theirs, worst)
					require.LessOrEqual(t, ours, theirs)
					require.Less(t, worst, 2.0, "of one gradient, whose rounding is chance")
					require.InDelta(t, wantLoss, loss, 0.01)
				})
			}
		}
	}
}

// A layer that is not adapted passes gradients on, too: also where a gate is computed with its layers.
func TestGradientsComeThroughLayersWithoutLoRAs(t *testing.T) {
	for _, keys := range [][]string{{"self_attn.q_proj"}, {"mlp.up_proj"}, {"mlp.down_proj", "self_attn.v_proj"}} {
		o := mlxtest.TrainOptions(t)
		o.NumLayers, o.Keys = 0, keys
		_, got := passOf(t, testenv.Model(t), o)
		o.Exact = true
		_, exact := passOf(t, testenv.Model(t), o)
		_, want := passOf(t, testenv.InFloat32(t, testenv.Model(t)), o)
		for i := range want {
			require.LessOrEqual(t, testenv.RelativeDifference(want[i], got[i]), 1.5*testenv.RelativeDifference(want[i], exact[i]), "%v: gradient %d", keys, i)
		}
	}
}
