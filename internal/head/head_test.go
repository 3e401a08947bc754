package head

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distmv"

	"forge.lthn.ai/core/go-mlx/quality"
)

// drawn is n vectors of three labels, whose log-probabilities are linear in the vectors' directions.
func drawn(seed uint64, n int) Data {
	rng := rand.New(rand.NewPCG(seed, 1))
	var data Data
	for range n {
		x, length := make([]float32, 8), math.Exp(rng.NormFloat64()/2)
		for i := range x {
			x[i] = float32(rng.NormFloat64()*length*float64(i+1) + float64(i)) // of unlike scale and mean
		}
		u, y := rng.Float64(), 0
		p := probabilities(drawnFrom(x), 1)
		for u -= p[0]; u > 0 && y < 2; u -= p[y] {
			y++
		}
		data.X, data.Y = append(data.X, x), append(data.Y, y)
	}
	return data
}

// drawnFrom are the log-probabilities that a vector's label was drawn by.
func drawnFrom(x []float32) []float64 {
	z, squares := make([]float64, len(x)), 0.0
	for i, v := range x {
		z[i] = (float64(v) - float64(i)) / float64(i+1)
		squares += z[i] * z[i]
	}
	return []float64{6 * z[0] / math.Sqrt(squares), 6 * z[3] / math.Sqrt(squares), 0}
}

func info() Info {
	return Info{Labels: []string{"a", "b", "c"}, Model: strings.Repeat("0", 64), Layer: 2}
}

func fitted(t testing.TB) *Head {
	t.Helper()
	h, err := Fit(context.Background(), info(), drawn(1, 3000), drawn(2, 1000))
	require.NoError(t, err)
	return h
}

func TestAFitIsAsGoodAndAsHonestAsTheDataAllow(t *testing.T) {
	h := fitted(t)
	test := drawn(3, 4000)
	var predictions []Prediction
	best := 0
	for i, x := range test.X {
		p := h.Predict(x)
		p.Truth = h.Labels[test.Y[i]]
		predictions = append(predictions, p)
		if largest(drawnFrom(x)) == test.Y[i] {
			best++
		}
	}
	r, err := quality.NewReport(h.Labels, predictions)
	require.NoError(t, err)
	require.InDelta(t, float64(best)/4000, r.Accuracy, 0.01, "what the true probabilities reach")
	require.Less(t, r.ECE, 0.03)
	require.Greater(t, r.Coverage[2].Accuracy, r.Accuracy, "the surest texts are right more often")
	require.Equal(t, 1.0, r.Coverage[9].Coverage)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Fit(ctx, info(), drawn(1, 100), drawn(2, 10))
	require.ErrorIs(t, err, context.Canceled)
	_, err = Fit(t.Context(), info(), drawn(1, 100), Data{})
	require.ErrorContains(t, err, "0 to validate with")
	_, err = Fit(t.Context(), Info{Labels: []string{"a"}, Layer: 1}, drawn(1, 100), drawn(2, 10))
	require.ErrorContains(t, err, "at least two")
}

// calibrationError is the expected calibration error of a head on new data.
func calibrationError(t *testing.T, h *Head, data Data) float64 {
	t.Helper()
	var predictions []Prediction
	for i, x := range data.X {
		p := h.Predict(x)
		p.Truth = h.Labels[data.Y[i]]
		predictions = append(predictions, p)
	}
	r, err := quality.NewReport(h.Labels, predictions)
	require.NoError(t, err)
	return r.ECE
}

// A fit over folds is as good as one with a validation part, though it has all data to fit to, and is unsure where folds contradict each other.
func TestACrossFitIsUnsureWhereFoldsDisagree(t *testing.T) {
	data := drawn(1, 3000)
	folds := make([]int, len(data.X))
	for i := range folds {
		folds[i] = i % 3
	}
	h, held, predictions, err := CrossFit(t.Context(), info(), data, folds)
	require.NoError(t, err)
	require.Equal(t, 3000, h.Texts)
	require.Len(t, predictions, 3000)
	require.Len(t, held, 3000, "each fold leaves two thirds of every label")
	require.Less(t, calibrationError(t, h, drawn(3, 3000)), 0.03)
	right, unknown := 0, 0
	for i, p := range predictions {
		if p.Label == h.Labels[data.Y[i]] {
			right++
		}
		if p.Unknown {
			unknown++
		}
	}
	test, rightLater := drawn(3, 3000), 0
	for i, x := range test.X {
		if h.Predict(x).Label == h.Labels[test.Y[i]] {
			rightLater++
		}
	}
	require.InDelta(t, float64(right)/3000, float64(rightLater)/3000, 0.03, "what held-back folds say is true of new data")
	require.InDelta(t, 1-keptKnown, float64(unknown)/3000, 0.005)

	// In the second fold labels have other vectors: what was fitted to one fold is no better than a guess on the other.
	for i := range data.X {
		if folds[i] = i % 2; folds[i] == 1 {
			data.Y[i] = (data.Y[i] + 1) % 3
		}
	}
	apart, _, _, err := CrossFit(t.Context(), info(), data, folds)
	require.NoError(t, err)
	require.Greater(t, apart.Temperature, 3.0)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, _, err = CrossFit(ctx, info(), data, folds)
	require.ErrorIs(t, err, context.Canceled)
	for want, folds := range map[string][]int{"folds for": {0}, "is in fold -1": append([]int{-1}, folds[1:]...), "some of both": make([]int, len(folds))} {
		_, _, _, err = CrossFit(t.Context(), info(), data, folds)
		require.ErrorContains(t, err, want)
	}
}

// Folds that each hold nearly all of one label say what folds of equal parts say: a fit that lacks such a fold takes the label for no rarer than it
// is, and what it says of the fold, of whose label it has seen next to nothing, does not count.
func TestACrossFitIsNotMisledByFoldsOfOneLabel(t *testing.T) {
	data := drawn(1, 3000)
	even, skewed := make([]int, len(data.X)), make([]int, len(data.X))
	for i, y := range data.Y {
		even[i], skewed[i] = i%3, y
		if i%10 < 3 {
			skewed[i] = (y + 1 + i%2) % 3
		}
	}
	want, _, _, err := CrossFit(t.Context(), info(), data, even)
	require.NoError(t, err)
	h, held, predictions, err := CrossFit(t.Context(), info(), data, skewed)
	require.NoError(t, err)
	require.Less(t, calibrationError(t, want, drawn(3, 3000)), 0.03)
	require.Less(t, calibrationError(t, h, drawn(3, 3000)), 0.05, "judged by less than a third of the data")
	require.InDelta(t, want.MinEnergy, h.MinEnergy, 0.5)
	require.Len(t, predictions, len(held))
	require.InDelta(t, 900, len(held), 60, "three tenths are in a fold with little of their label")
	right := 0
	for n, i := range held {
		require.NotEqual(t, data.Y[i], skewed[i])
		if predictions[n].Label == h.Labels[data.Y[i]] {
			right++
		}
	}
	test, rightLater := drawn(3, 3000), 0
	for i, x := range test.X {
		if h.Predict(x).Label == h.Labels[test.Y[i]] {
			rightLater++
		}
	}
	require.InDelta(t, float64(rightLater)/3000, float64(right)/float64(len(held)), 0.04, "what held-back vectors say is true of new data")
}

// Sure mistakes among vectors that are otherwise told apart well do not make the others look doubtful: probabilities are in the mean what is right.
func TestATemperatureIsConsistentWithWhatIsRight(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 1))
	var logits [][]float64
	var truth []int
	share, labels := 0.0, []float64{0, 0}
	for i := range 4000 {
		y := 0
		if i%4 == 0 {
			y = 1 // rarer, and as often right
		}
		z := []float64{0, 0}
		z[y] = 1.5
		if rng.Float64() < 0.2 {
			z[y] = -6
		}
		labels[y]++
		logits, truth = append(logits, z), append(truth, y)
	}
	consistent := func(logits [][]float64, truth []int) float64 {
		temperature, err := consistentTemperature(t.Context(), logits, truth)
		require.NoError(t, err)
		return temperature
	}
	temperature := consistent(logits, truth)
	for i, z := range logits {
		p := probabilities(z, temperature)
		share += p[largest(p)] / labels[truth[i]] / 2
	}
	require.InDelta(t, 0.8, share, 0.02)
	best, err := bestTemperature(t.Context(), logits, truth)
	require.NoError(t, err)
	require.Greater(t, best, 1.5*temperature, "the least loss makes all of them doubtful")
	require.InDelta(t, math.Exp(-widestLogTemperature), consistent([][]float64{{2, 0}, {0, 1}}, []int{0, 1}), 1e-6, "all right")
	require.InDelta(t, math.Exp(widestLogTemperature), consistent([][]float64{{2, 0}, {0, 1}}, []int{1, 0}), 1, "all wrong")
}

// That a few texts were all right does not make the head sure of the next one: not of texts that are told apart by a wide margin either.
func TestFewTextsMakeNoCertainty(t *testing.T) {
	for _, n := range []int{1, 6, 20, 2000} {
		var logits [][]float64
		var truth []int
		for i := range n {
			z := []float64{0, 0, impossible}
			z[i%2] = 500 + float64(i%7)
			logits, truth = append(logits, z), append(truth, i%2)
		}
		for _, temperature := range []float64{1e-5, 1, 1e5} {
			temperature, err := modest(t.Context(), temperature, logits, truth, evenWeight(truth))
			require.NoError(t, err)
			if temperature == 1e5 {
				continue // modest already
			}
			mean := 0.0
			for i := range truth {
				mean += slices.Max(probabilities(logits[i], temperature)) / float64(n)
			}
			require.InDelta(t, float64(n+1)/float64(n+2), mean, 0.02, "%d texts", n)
		}
	}
}

// A vector in the direction of a label's mean is near, one that points away from all is far, and each way of telling unknown texts has its threshold.
func TestTheDistanceIsFromTheNearestMean(t *testing.T) {
	h := &Head{Info: Info{Labels: []string{"a", "b"}, AbstainBy: ByDistance, MaxDistance: 0.5, MinEnergy: 3}, size: 2,
		mean: []float32{1, 1}, scale: []float32{2, 1}, centres: []float32{1, 0, 0, 1}}
	require.InDelta(t, 0, h.Distance([]float32{5, 1}), 1e-9)
	require.InDelta(t, 0, h.Distance([]float32{1, 9}), 1e-9)
	require.InDelta(t, 1-math.Sqrt2/2, h.Distance([]float32{2, 3}), 1e-9, "the first value counts twice")
	require.InDelta(t, 1+math.Sqrt2/2, h.Distance([]float32{0, -1}), 1e-9)
	require.Equal(t, 1.0, h.Distance([]float32{1, 1}), "a vector without a direction")
	require.True(t, h.Unknown([]float64{9, 9}, 0.6))
	require.False(t, h.Unknown([]float64{0, 0}, 0.4))
	other, err := h.By(ByEnergy)
	require.NoError(t, err)
	require.False(t, other.Unknown([]float64{9, 9}, 0.6))
	require.True(t, other.Unknown([]float64{0, 0}, 0.4))
	require.Equal(t, ByDistance, h.AbstainBy, "the head itself is as it was")
	_, err = h.By("luck")
	require.Error(t, err)
}

// A label's logit is the log-density of a normal distribution with the label's mean and the shrunk covariance within labels, plus the log of its prior.
func TestAHeadIsALinearDiscriminant(t *testing.T) {
	data := drawn(4, 600)
	const d = 8
	var rows [3][]float64 // of each label's vectors: directions times the square root of d
	mean, scale, err := standardisation(t.Context(), data.X)
	require.NoError(t, err)
	for i, x := range data.X {
		z := direction(x, mean, scale)
		floats.Scale(math.Sqrt(d), z)
		rows[data.Y[i]] = append(rows[data.Y[i]], z...)
	}
	for _, balanced := range []bool{false, true} {
		m, err := newMoments(t.Context(), data, 3, balanced)
		require.NoError(t, err)
		var within mat.SymDense
		var means [3][]float64
		var priors [3]float64
		for k := range 3 {
			n := len(rows[k]) / d
			if priors[k] = float64(n) / 600; balanced {
				priors[k] = 1.0 / 3
			}
			of := mat.NewDense(n, d, rows[k])
			for j := range d {
				means[k] = append(means[k], stat.Mean(mat.Col(nil, j, of), nil))
			}
			var covariance mat.SymDense
			stat.CovarianceMatrix(&covariance, of, nil)
			covariance.ScaleSym(priors[k]*float64(n-1)/float64(n), &covariance)
			if within.IsEmpty() {
				within = *mat.NewSymDense(d, nil)
			}
			within.AddSym(&within, &covariance)
		}
		for _, shrinkage := range []float64{1e-3, 0.4, 1} {
			h, err := m.head(t.Context(), info(), shrinkage, &workspace{})
			require.NoError(t, err)
			var shrunk mat.SymDense
			shrunk.ScaleSym(1-shrinkage, &within)
			for j := range d {
				shrunk.SetSym(j, j, shrunk.At(j, j)+shrinkage)
			}
			for _, x := range data.X[:50] {
				z := direction(x, mean, scale)
				floats.Scale(math.Sqrt(d), z)
				var want [3]float64
				for k := range want {
					normal, ok := distmv.NewNormal(means[k], &shrunk, nil)
					require.True(t, ok)
					want[k] = normal.LogProb(z) + math.Log(priors[k])
				}
				got := h.Logits(x)
				for k := range want {
					require.InDelta(t, want[k]-want[0], got[k]-got[0], 1e-3)
				}
			}
		}
	}
}

// A fit to few vectors, whose equations have as many unknowns as vectors, is the fit by the covariance.
func TestAFitToFewVectorsIsTheSame(t *testing.T) {
	const n, d = 60, 200
	data, _ := wide(n, d)
	for i, x := range data.X {
		for j := range x {
			x[j] += x[(j+1)%d] / 2 // values go together
		}
		x[data.Y[i]] += 1
	}
	require.True(t, few(n, d))
	for _, balanced := range []bool{false, true} {
		m, err := newMoments(t.Context(), data, 3, balanced)
		require.NoError(t, err)
		require.Empty(t, m.within.Data)
		whole := *m
		whole.within = blas32.General{Rows: d, Cols: d, Stride: d, Data: make([]float32, d*d)}
		require.NoError(t, addProduct(t.Context(), m.rows, whole.within))
		whole.rows, whole.gram = blas32.General{}, blas32.General{}
		for _, shrinkage := range shrinkages {
			got, err := m.head(t.Context(), info(), shrinkage, &workspace{})
			require.NoError(t, err)
			want, err := whole.head(t.Context(), info(), shrinkage, &workspace{})
			require.NoError(t, err)
			for _, x := range data.X {
				for k, logit := range want.Logits(x) {
					require.InDelta(t, logit, got.Logits(x)[k], 2e-3*(1+math.Abs(logit)), "%v", shrinkage)
				}
			}
		}
	}
}

// Data that determine nothing still make a head: values that are always the same, fewer vectors than values, a label without a vector.
func TestAFitOfPoorDataIsAHead(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	var data Data
	for i := range 12 {
		x := make([]float32, 40)
		for j := range x[1:] {
			x[j+1] = float32(rng.NormFloat64() + float64(i%2)*2)
		}
		x[0] = 7
		data.X, data.Y = append(data.X, x), append(data.Y, i%2)
	}
	h, err := Fit(t.Context(), info(), data, Data{X: data.X[:4], Y: data.Y[:4]})
	require.NoError(t, err)
	for i, x := range data.X {
		require.Equal(t, h.Labels[data.Y[i]], h.Predict(x).Label)
		require.Zero(t, probabilities(h.Logits(x), h.Temperature)[2], "the label that no vector has")
	}
	same := Data{X: [][]float32{{1, 1}, {1, 1}}, Y: []int{0, 1}}
	h, err = Fit(t.Context(), info(), same, same)
	require.NoError(t, err)
	require.InDelta(t, 0.5, h.Predict(same.X[0]).Probability, 1e-6)
	data.X[3][3] = float32(math.Inf(1))
	_, err = Fit(t.Context(), info(), data, Data{X: data.X[:2], Y: data.Y[:2]})
	require.ErrorContains(t, err, "the fit failed")
}

// Where all held-back vectors are right at many shrinkages, the strongest of these is taken, and the head is as sure as their number allows.
func TestAFitThatIsAllRightIsShrunk(t *testing.T) {
	data, folds := wide(90, 9)
	for i, x := range data.X {
		x[data.Y[i]] += 20
	}
	h, err := Fit(t.Context(), info(), Data{X: data.X[:60], Y: data.Y[:60]}, Data{X: data.X[60:], Y: data.Y[60:]})
	require.NoError(t, err)
	crossed, _, predictions, err := CrossFit(t.Context(), info(), data, folds)
	require.NoError(t, err)
	require.Equal(t, []float64{shrinkages[0], shrinkages[0]}, []float64{h.Shrinkage, crossed.Shrinkage})
	mean := 0.0
	for i, x := range data.X[60:] {
		p := h.Predict(x)
		require.Equal(t, h.Labels[data.Y[60+i]], p.Label)
		mean += p.Probability / 30
	}
	require.InDelta(t, 31./32, mean, 1e-6)
	mean = 0
	for i, p := range predictions {
		require.Equal(t, crossed.Labels[data.Y[i]], p.Label)
		mean += p.Probability / 90
	}
	require.InDelta(t, 91./92, mean, 1e-6)
}
