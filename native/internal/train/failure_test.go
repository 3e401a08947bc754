package train

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

func TestAFailureOfAnyOpOfTrainingLeavesNothingBehind(t *testing.T) {
	eachWay(t, func(t *testing.T, exact bool) {
		for _, checkpointed := range []bool{false, true} {
			n, e := open(t, testenv.Model(t), engine.NativeOptions{Exact: exact})
			o := mlxtest.TrainOptions(t)
			o.Iterations, o.Accumulate, o.EvalEvery, o.EvalBatches, o.NumLayers, o.Checkpoint, o.Exact = 2, 2, 2, 1, 2, checkpointed, exact
			step := 7
			if exact {
				step = 120 // MLX's ops are many, and slow
			}
			mlxtest.FailEverywhere(t, step, func() error {
				_, err := Run(t.Context(), n, e, testenv.Model(t), o)
				for name, l := range n.Linears {
					require.False(t, l.Adapted(), name)
				}
				return err
			})
		}
	})
}
