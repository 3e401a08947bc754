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

// What content-free texts score is taken from the scores, so a label that a model likes whatever the text wins no more for that.
func TestAContentFreeTextPrefersNoLabel(t *testing.T) {
	m := load(t, testenv.Model(t))
	labels := testenv.Labels(t)
	free := []string{"N/A", "[MASK]", "...", "-", "text"}
	mean := func(options ...mlx.ClassifyOption) (widest float64) {
		results, err := m.Classify(t.Context(), free, labels, options...)
		require.NoError(t, err)
		low, high := math.Inf(1), math.Inf(-1)
		for l := range labels {
			sum := 0.0
			for _, r := range results {
				sum += r.Scores[l].Score
			}
			low, high = min(low, sum), max(high, sum)
		}
		return high - low
	}
	require.Greater(t, mean(mlx.WithLabels(mlx.LabelPrior(mlx.PriorNone))), 1.0)
	require.InDelta(t, 0, mean(), 1e-9)

	texts := testenv.Texts(t)[:20]
	together, err := m.Classify(t.Context(), texts, labels)
	require.NoError(t, err)
	for i, text := range texts {
		alone, err := m.Classify(t.Context(), []string{text}, labels)
		require.NoError(t, err)
		require.Equal(t, together[i].Label, alone[0].Label)
		require.InDelta(t, together[i].Probability, alone[0].Probability, 1e-4)
	}
	batch, err := m.Classify(t.Context(), texts, labels, mlx.WithLabels(mlx.LabelPrior(mlx.PriorBatch)))
	require.NoError(t, err)
	for l := range labels {
		sum := 0.0
		for _, r := range batch {
			sum += r.Scores[l].Score
		}
		require.InDelta(t, 0, sum, 1e-6, "the batch's mean")
	}
	_, err = m.Classify(t.Context(), texts, labels, mlx.WithLabels(mlx.LabelPrior("best")))
	requireOption(t, err, "LabelPrior")
}

// Both engines learn the same prior and fill the same prompts.
func TestPriorsAndDetailsAreTheSameInBothEngines(t *testing.T) {
	labels := []string{"sport", "food", "law"}
	details := mlx.WithLabels(mlx.LabelDescriptions(map[string]mlx.LabelDetails{"food": {Description: "cooking, meals", Examples: []string{"Bake the cake."}}}))
	native := load(t, testenv.Model(t), mlx.WithNative(mlx.Exact()))
	python := load(t, testenv.Model(t), mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
	texts := testenv.Texts(t)[:24]
	for _, prompt := range []string{mlx.DefaultLabelPrompt, mlx.CompletionLabelPrompt} {
		for _, prior := range []mlx.Prior{mlx.PriorContentFree, mlx.PriorBatch, mlx.PriorNone} {
			want, err := python.Classify(t.Context(), texts, labels, details, mlx.WithLabels(mlx.LabelPrior(prior), mlx.LabelPrompt(prompt)))
			require.NoError(t, err)
			got, err := native.Classify(t.Context(), texts, labels, details, mlx.WithLabels(mlx.LabelPrior(prior), mlx.LabelPrompt(prompt)))
			require.NoError(t, err)
			for i := range want {
				for l := range labels {
					require.InDelta(t, want[i].Scores[l].Score, got[i].Scores[l].Score, 1e-3, "%s, %s", prompt, prior)
				}
			}
		}
	}
	plain, err := native.Classify(t.Context(), texts, labels)
	require.NoError(t, err)
	described, err := native.Classify(t.Context(), texts, labels, details)
	require.NoError(t, err)
	require.NotEqual(t, plain, described)
	_, err = native.Classify(t.Context(), texts, labels, mlx.WithLabels(mlx.LabelDescriptions(map[string]mlx.LabelDetails{"sports": {}})))
	requireOption(t, err, "LabelDescriptions")
	_, err = native.Classify(t.Context(), texts, labels, mlx.WithLabels(mlx.LabelPrompt("{label}: {text}")))
	requireOption(t, err, "LabelPrompt")
}
