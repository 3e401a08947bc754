package quality

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAReportByHand(t *testing.T) {
	p := func(language, truth, label string, probability float64) Prediction {
		return Prediction{Language: language, Truth: truth, Label: label, Probability: probability, Confidence: probability}
	}
	r, err := NewReport([]string{"a", "b"}, []Prediction{
		p("en", "a", "a", 0.95), p("en", "a", "b", 0.55), p("de", "b", "b", 0.85), p("de", "b", "c", 0.65),
	})
	require.NoError(t, err)
	require.Equal(t, 0.5, r.Accuracy)
	require.Equal(t, []Row{
		{Name: "a", Texts: 2, Precision: 1, Recall: 0.5, F1: 2. / 3}, {Name: "b", Texts: 2, Precision: 0.5, Recall: 0.5, F1: 0.5}, {Name: "c"},
	}, r.Labels)
	require.InDelta(t, (2./3+0.5)/2, r.MacroF1, 1e-12)
	require.InDelta(t, (0.05+0.55+0.15+0.65)/4, r.ECE, 1e-12)
	require.Equal(t, [][]int{{1, 1, 0}, {0, 1, 1}, {0, 0, 0}}, r.Confusion)
	require.Equal(t, []float64{0.65, 0.55}, []float64{r.Mistakes[0].Probability, r.Mistakes[1].Probability})
	require.Equal(t, []string{"de", "en"}, []string{r.Languages[0].Name, r.Languages[1].Name})
	require.InDelta(t, 2./3, r.Languages[1].F1, 1e-12)
	_, err = NewReport(nil, nil)
	require.Error(t, err)
	for _, bad := range []float64{math.NaN(), math.Inf(1), -0.1, 1.1} {
		_, err = NewReport(nil, []Prediction{p("en", "a", "a", bad)})
		require.ErrorContains(t, err, "prediction 1")
	}
}

func TestMcNemar(t *testing.T) {
	var a, b []Prediction
	add := func(n int, rightA, rightB bool) {
		label := func(right bool) string {
			if right {
				return "x"
			}
			return "y"
		}
		for range n {
			a = append(a, Prediction{Truth: "x", Label: label(rightA)})
			b = append(b, Prediction{Truth: "x", Label: label(rightB)})
		}
	}
	add(50, true, true)
	add(12, true, false)
	add(3, false, true)
	add(5, false, false)
	c, err := Compare(a, b)
	require.NoError(t, err)
	require.Equal(t, []int{70, 12, 3, 50, 5, 55}, []int{c.Texts, c.OnlyA, c.OnlyB, c.Both, c.Neither, c.Agree})
	require.InDelta(t, 0.0351563, c.PValue, 1e-6) // scipy.stats.binomtest(3, 15).pvalue
	same, err := Compare(a, a)
	require.NoError(t, err)
	require.Equal(t, 1.0, same.PValue)
	_, err = Compare(a, b[1:])
	require.ErrorContains(t, err, "same texts")
	other := slices.Clone(a)
	other[3].Truth = "z"
	_, err = Compare(a, other)
	require.ErrorContains(t, err, `is "x" in one and "z" in the other`)
	other = slices.Clone(a)
	other[3].Text = strings.Repeat("long ", 1000)
	_, err = Compare(a, other)
	require.ErrorContains(t, err, "same texts")
	require.Less(t, len(err.Error()), 300)
}
