package engine

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// drawn makes results whose labels are right exactly as often as their scores say at a temperature.
func drawn(t *testing.T, temperature float64, n int) (results []Classification, truth []int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	o := ClassifyOptions{Labels: []string{"a", "b", "c"}}
	for range n {
		scores := []float64{rng.NormFloat64() * 4, rng.NormFloat64() * 4, rng.NormFloat64() * 4}
		r, err := o.Result(scores)
		require.NoError(t, err)
		_, logProbs := logSoftmax(scores, temperature)
		u, pick := rng.Float64(), 0
		for u -= math.Exp(logProbs[0]); u > 0 && pick < 2; u -= math.Exp(logProbs[pick]) {
			pick++
		}
		results, truth = append(results, r), append(truth, pick)
	}
	return results, truth
}

func TestTheTemperatureThatMadeTheDataIsFound(t *testing.T) {
	for _, temperature := range []float64{0.3, 1, 4} {
		results, truth := drawn(t, temperature, 20000)
		c, err := FitCalibration(results, truth)
		require.NoError(t, err)
		require.InEpsilon(t, temperature, c.Temperature, 0.05)
		require.LessOrEqual(t, c.NLLAfter, c.NLLBefore)
		require.Less(t, c.ECEAfter, 0.02)
		if temperature != 1 {
			require.Greater(t, c.ECEBefore, 0.05)
		}
	}
	_, err := FitCalibration(nil, nil)
	require.ErrorIs(t, err, ErrNoTexts)
}

func TestAResultUnderATemperature(t *testing.T) {
	scores := []float64{-1, -3, -2}
	plain, err := ClassifyOptions{Labels: []string{"a", "b", "c"}}.Result(scores)
	require.NoError(t, err)
	hot, err := ClassifyOptions{Labels: []string{"a", "b", "c"}, Temperature: 5, MinProbability: 0.5}.Result(scores)
	require.NoError(t, err)
	require.Equal(t, "a", hot.Label)
	require.Less(t, hot.Probability, plain.Probability)
	require.True(t, hot.Abstained)
	require.False(t, plain.Abstained)
	sum := 0.0
	for i, s := range hot.Scores {
		require.Equal(t, scores[i], s.Score, "scores stay")
		sum += s.Probability
	}
	require.InDelta(t, 1, sum, 1e-12)
	for _, bad := range []ClassifyOptions{{Temperature: -1}, {Temperature: math.NaN()}, {MinProbability: 2}, {MinProbability: math.NaN()}} {
		bad.Labels, bad.Prompt = []string{"a"}, "{text}"
		var option *OptionError
		require.ErrorAs(t, bad.Validate(nil), &option)
	}
}
