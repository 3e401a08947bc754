package mlx_test

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestASequenceIsClassifiedAsAListIs(t *testing.T) {
	m := load(t, testenv.Model(t))
	labels := testenv.Labels(t)
	var texts []string
	for len(texts) < 1100 {
		for _, text := range testenv.Texts(t) {
			texts = append(texts, string([]rune(text)[:8]))
		}
	}
	want, err := m.Classify(t.Context(), texts, labels)
	require.NoError(t, err)
	taken := 0
	counted := func(yield func(string) bool) {
		for _, text := range texts {
			taken++
			if !yield(text) {
				return
			}
		}
	}
	i := 0
	for got, err := range mlx.ClassifyAll(t.Context(), m, counted, labels) {
		require.NoError(t, err)
		require.Equal(t, want[i].Label, got.Label)
		i++
		require.LessOrEqual(t, taken-i, 600, "texts are taken as they are needed")
	}
	require.Equal(t, len(texts), i)
	for range mlx.ClassifyAll(t.Context(), m, counted, labels) {
		break
	}
	var last error
	for _, err := range mlx.ClassifyAll(t.Context(), m, slices.Values([]string{"ok", "\xff"}), labels) {
		last = err
	}
	require.ErrorIs(t, last, mlx.ErrInvalidUTF8)
}

func TestCalibrationChangesProbabilitiesAndNoLabel(t *testing.T) {
	m := load(t, testenv.Model(t))
	labels := testenv.Labels(t)
	var labelled []mlx.LabelledText
	for _, l := range testenv.Heldout(t) {
		labelled = append(labelled, mlx.LabelledText{Text: l.Text, Label: l.Domain})
	}
	fitted, err := mlx.Calibrate(t.Context(), m, labelled, labels)
	require.NoError(t, err)
	t.Logf("%+v", fitted)
	require.Less(t, fitted.NLLAfter, fitted.NLLBefore)
	again, err := mlx.Calibrate(t.Context(), m, labelled, labels, mlx.WithCalibration(fitted))
	require.NoError(t, err)
	require.Equal(t, fitted, again, "a calibration is not fitted on top of another")
	plain, err := m.Classify(t.Context(), testenv.Texts(t), labels)
	require.NoError(t, err)
	calibrated, err := m.Classify(t.Context(), testenv.Texts(t), labels, mlx.WithCalibration(fitted), mlx.WithAbstain(0.5))
	require.NoError(t, err)
	nll := 0.0
	for i, c := range calibrated {
		require.Equal(t, plain[i].Label, c.Label)
		require.Equal(t, c.Probability < 0.5, c.Abstained)
		nll -= math.Log(c.Scores[slices.Index(labels, labelled[i].Label)].Probability) / float64(len(calibrated))
	}
	require.InDelta(t, fitted.NLLAfter, nll, 1e-9)
	_, err = mlx.Calibrate(t.Context(), m, []mlx.LabelledText{{Text: "x", Label: "none"}}, labels)
	requireOption(t, err, "labels")
}
