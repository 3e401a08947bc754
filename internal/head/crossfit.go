package head

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// CrossFit fits a head to all data, and chooses penalty, temperature and thresholds by what heads say that were fitted to the rest of the data:
// folds has a number from 0 on for each vector, and each number's vectors are held back once. Where folds are such that a fold
// is unlike the others (other programs, other authors), the head is as unsure of new data as it should be. predictions are those of the
// held-back vectors, in the order of data, without truth, language and text.
func CrossFit(ctx context.Context, info Info, data Data, folds []int) (_ *Head, predictions []Prediction, err error) {
	if err := checkLabels(info.Labels); err != nil {
		return nil, nil, err
	}
	if len(folds) != len(data.X) {
		return nil, nil, fmt.Errorf("%d folds for %d vectors", len(folds), len(data.X))
	}
	fits, err := newFoldFits(ctx, len(info.Labels), data, folds)
	if err != nil {
		return nil, nil, err
	}
	var best *outside
	for _, penalty := range penalties {
		o, err := fits.fit(info, data, penalty)
		if err != nil {
			return nil, nil, err
		}
		// Behind the temperature: heads are too sure of what is unlike the data that they were fitted to, whatever the penalty, and
		// without it the penalty would be chosen to hide that.
		if best != nil && o.loss >= best.loss {
			break // weaker penalties fit the other folds only
		}
		if !math.IsNaN(o.loss) {
			best = o
		}
	}
	if best == nil {
		return nil, nil, errors.New("the fit failed: no finite loss on held-back data")
	}
	p := newProblem(ctx, data, len(info.Labels))
	p.penalty = best.penalty
	at, err := p.minimise(make([]float64, p.k*(p.d+1)))
	if err != nil {
		return nil, nil, err
	}
	h := p.head(info, at)
	h.Temperature, h.Texts = best.temperature, len(data.X)
	h.setThresholds(best.logits, best.distances)
	for i := range data.X {
		predictions = append(predictions, h.prediction(best.logits[i], best.distances[i]))
	}
	return h, predictions, h.check()
}

// foldFits are fits that each lack a fold.
type foldFits struct {
	folds    []int
	problems []*problem
	at       [][]float64 // where each fit's last penalty ended
}

func newFoldFits(ctx context.Context, labels int, data Data, folds []int) (*foldFits, error) {
	f := &foldFits{folds: folds}
	for i, fold := range folds {
		if fold < 0 || fold > len(folds) {
			return nil, fmt.Errorf("vector %d is in fold %d", i, fold)
		}
		for len(f.problems) <= fold {
			f.problems = append(f.problems, nil)
		}
	}
	for fold := range f.problems {
		var rest Data
		for i := range data.X {
			if folds[i] != fold {
				rest.X, rest.Y = append(rest.X, data.X[i]), append(rest.Y, data.Y[i])
			}
		}
		if len(rest.X) == 0 || len(rest.X) == len(data.X) {
			return nil, fmt.Errorf("%d of %d texts to fit to and the others to validate with: there must be some of both", len(rest.X), len(data.X))
		}
		p := newProblem(ctx, rest, labels)
		f.problems[fold], f.at = p, append(f.at, make([]float64, p.k*(p.d+1)))
	}
	return f, nil
}

// outside is what heads of one penalty say of the vectors that they were not fitted to.
type outside struct {
	penalty, temperature, loss float64
	logits                     [][]float64
	distances                  []float64
}

func (f *foldFits) fit(info Info, data Data, penalty float64) (*outside, error) {
	o := &outside{penalty: penalty, logits: make([][]float64, len(data.X)), distances: make([]float64, len(data.X))}
	for fold, p := range f.problems {
		p.penalty = penalty
		var err error
		if f.at[fold], err = p.minimise(f.at[fold]); err != nil {
			return nil, err
		}
		h := p.head(info, f.at[fold])
		if err := h.check(); err != nil {
			return nil, fmt.Errorf("the fit failed: %w", err)
		}
		for i, x := range data.X {
			if f.folds[i] == fold {
				o.logits[i], o.distances[i] = h.Logits(x), h.Distance(x)
			}
		}
	}
	o.temperature = bestTemperature(o.logits, data.Y)
	o.loss = logLoss(o.logits, data.Y, o.temperature)
	return o, nil
}
