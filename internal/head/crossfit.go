package head

import (
	"context"
	"fmt"
	"math"
)

// leastLeft is how much of a label's data must be left to fit to for the held-back part of the label to be judged. With less, what is judged knows less than
// the head will, and makes it look less right than it is (docs/classification.md).
const leastLeft = 0.6

// CrossFit fits a head to all data. It chooses shrinkage, temperature and thresholds by cross-validation: folds has a number from 0 on for each
// vector, and the vectors of each number are held back once and judged by a head that was fitted to the rest. Where folds are such that a fold
// is unlike the others (other programs, other authors), the head is as unsure of new data as it should be.
//
// Every label counts as much as any other, in all fits. Else a label would be rarer in a fit that lacks its fold than in the data, and the fit would
// be wrong about just that fold. For the same reason vectors whose fold holds much of their label's data are not judged: the head, which
// is fitted to all of it, knows more than a fit without them. held are the indices of those that are judged, and predictions are those for
// them, without truth, language and text.
func CrossFit(ctx context.Context, info Info, data Data, folds []int) (_ *Head, held []int, predictions []Prediction, err error) {
	if err := checkLabels(info.Labels); err != nil {
		return nil, nil, nil, err
	}
	if len(folds) != len(data.X) {
		return nil, nil, nil, fmt.Errorf("%d folds for %d vectors", len(folds), len(data.X))
	}
	fits, err := newFoldFits(ctx, len(info.Labels), data, folds)
	if err != nil {
		return nil, nil, nil, err
	}
	var best *outside
	space := &workspace{}
	for _, shrinkage := range shrinkages {
		o, err := fits.judge(ctx, info, data, shrinkage, space)
		if err != nil {
			return nil, nil, nil, err
		}
		// After the temperature was applied: heads are too sure of what is unlike the data that they were fitted to, whatever the shrinkage, and
		// without it the shrinkage would be chosen to hide that.
		if best != nil && o.loss >= best.loss-leastGain {
			break // less shrinkage fits the other folds only
		}
		if !math.IsNaN(o.loss) {
			best = o
		}
	}
	if best == nil {
		return nil, nil, nil, errNoLoss
	}
	fits.moments = nil // the memory is used again
	m, err := newMoments(ctx, data, len(info.Labels), true)
	if err != nil {
		return nil, nil, nil, err
	}
	h, err := m.head(ctx, info, best.shrinkage, space)
	if err != nil {
		return nil, nil, nil, err
	}
	if h.Temperature, err = modest(ctx, best.temperature, best.logits, fits.truth, evenWeight(fits.truth)); err != nil {
		return nil, nil, nil, err
	}
	h.Texts = len(data.X)
	h.setThresholds(best.logits, best.distances)
	for n := range fits.held {
		predictions = append(predictions, h.prediction(best.logits[n], best.distances[n]))
	}
	return h, fits.held, predictions, h.check()
}

// foldFits are fits that each lack a fold.
type foldFits struct {
	folds   []int
	held    []int // indices of the vectors that are judged
	truth   []int // their labels
	moments []*moments
}

func newFoldFits(ctx context.Context, labels int, data Data, folds []int) (*foldFits, error) {
	f := &foldFits{folds: folds}
	for i, fold := range folds {
		if fold < 0 || fold > len(folds) {
			return nil, fmt.Errorf("vector %d is in fold %d", i, fold)
		}
		for len(f.moments) <= fold {
			f.moments = append(f.moments, nil)
		}
	}
	for fold := range f.moments {
		var rest Data
		for i := range data.X {
			if folds[i] != fold {
				rest.X, rest.Y = append(rest.X, data.X[i]), append(rest.Y, data.Y[i])
			}
		}
		if len(rest.X) == 0 || len(rest.X) == len(data.X) {
			return nil, fmt.Errorf("%d of %d texts to fit to and the others to validate with: there must be some of both", len(rest.X), len(data.X))
		}
		var err error
		if f.moments[fold], err = newMoments(ctx, rest, labels, true); err != nil {
			return nil, err
		}
	}
	for _, i := range judged(labels, data, folds) {
		f.held, f.truth = append(f.held, i), append(f.truth, data.Y[i])
	}
	return f, nil
}

// judged are the indices of the vectors of whose label enough is in other folds; all if there are none such.
func judged(labels int, data Data, folds []int) []int {
	whole := make([]int, labels)
	inFold := map[[2]int]int{} // of a fold and a label
	for i, y := range data.Y {
		whole[y]++
		inFold[[2]int{folds[i], y}]++
	}
	var out, all []int
	for i, y := range data.Y {
		all = append(all, i)
		if left := whole[y] - inFold[[2]int{folds[i], y}]; float64(left) >= leastLeft*float64(whole[y]) {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}

// outside is what heads of one shrinkage say of the judged vectors, in the order of foldFits.held.
type outside struct {
	shrinkage, temperature, loss float64
	logits                       [][]float64
	distances                    []float64
}

// judge judges each vector by a head that was fitted without its fold.
func (f *foldFits) judge(ctx context.Context, info Info, data Data, shrinkage float64, space *workspace) (*outside, error) {
	o := &outside{shrinkage: shrinkage, logits: make([][]float64, len(f.held)), distances: make([]float64, len(f.held))}
	for fold, m := range f.moments {
		h, err := m.head(ctx, info, shrinkage, space)
		if err != nil {
			return nil, err
		}
		for n, i := range f.held {
			if f.folds[i] == fold {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				o.logits[n], o.distances[n] = h.Logits(data.X[i]), h.Distance(data.X[i])
			}
		}
	}
	var err error
	if o.temperature, err = consistentTemperature(ctx, o.logits, f.truth); err != nil {
		return nil, err
	}
	o.loss = evenLoss(o.logits, f.truth, o.temperature)
	return o, nil
}

// consistentTemperature is the temperature at which the probability of the chosen labels is, in the mean, the share of vectors that they are right for
// (expectation consistency, Clarté et al. 2023, arXiv:2303.02644); each label's vectors count as much as another's. The temperature with the
// least loss would let a few sure mistakes, which unlike folds always make, blur what is said of all others.
func consistentTemperature(ctx context.Context, logits [][]float64, truth []int) (float64, error) {
	weight, right := evenWeight(truth), 0.0
	for i, y := range truth {
		if largest(logits[i]) == y {
			right += weight(y)
		}
	}
	return temperatureOf(ctx, logits, truth, weight, right)
}

// evenLoss is the mean over labels of their mean negative log-probability at a temperature.
func evenLoss(logits [][]float64, truth []int, temperature float64) float64 {
	weight, total := evenWeight(truth), 0.0
	for i, y := range truth {
		total -= math.Log(max(probabilities(logits[i], temperature)[y], 1e-300)) * weight(y)
	}
	return total
}

// evenWeight is what a vector of a label counts so that every label counts as much as another and all together one.
func evenWeight(truth []int) func(label int) float64 {
	counts := map[int]float64{}
	for _, y := range truth {
		counts[y]++
	}
	return func(label int) float64 { return 1 / (counts[label] * float64(len(counts))) }
}
