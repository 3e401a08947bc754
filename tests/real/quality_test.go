//go:build real

package real

import (
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Gemma 3 270M, untrained, on sentences it has not seen: texts one by one are as good as a batch, since what is taken from the labels'
// scores does not depend on other texts.
func TestUntrainedClassificationIsGood(t *testing.T) {
	m := load(t, realFile(t, gemma))
	labels := testenv.Labels(t)
	accuracy := func(alone bool, options ...mlx.ClassifyOption) float64 {
		right := 0
		heldout := testenv.Heldout(t)
		batch, err := m.Classify(t.Context(), testenv.Texts(t), labels, options...)
		require.NoError(t, err)
		for i, s := range heldout {
			result := batch[i]
			if alone {
				one, err := m.Classify(t.Context(), []string{s.Text}, labels, options...)
				require.NoError(t, err)
				result = one[0]
			}
			if result.Label == s.Domain {
				right++
			}
		}
		return float64(right) / float64(len(heldout))
	}
	before := accuracy(false, mlx.WithLabels(mlx.LabelPrior(mlx.PriorNone), mlx.LabelPrompt(mlx.DefaultLabelPrompt)))
	batch, single := accuracy(false), accuracy(true)
	calibrated := accuracy(false, mlx.WithLabels(mlx.LabelPrior(mlx.PriorBatch)))
	t.Logf("without a prior, by the chat's prompt %.3f; default %.3f, one by one %.3f; prior of the batch %.3f", before, batch, single, calibrated)
	require.Less(t, before, 0.55)
	require.GreaterOrEqual(t, batch, 0.82)
	require.GreaterOrEqual(t, single, 0.82)
	require.GreaterOrEqual(t, calibrated, 0.82)
}
