package head

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Data are vectors of one length with the index of each one's label.
type Data struct {
	X [][]float32
	Y []int
}

// shrinkages are tried on the validation part, from the strongest. See moments.head.
var shrinkages = []float64{0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02}

const (
	// widestLogTemperature bounds the temperature: it is between e^-12 and e^12. With a strong shrinkage logits are large, since it takes values
	// that say the same for independent ones: with few vectors to fit to they reach the number of values.
	widestLogTemperature = 12
	// keptKnown is the share of validation texts that the thresholds let through.
	keptKnown = 0.95
	// leastGain is how much less loss makes a weaker shrinkage better. Less is rounding, where all held-back vectors are right.
	leastGain = 1e-6
	// impossible is the bias of a label without a vector to fit to. Whatever the temperature, its probability is 0.
	impossible = -1e9
)

// Fit fits a head to training data and chooses its shrinkage, temperature and thresholds on validation data. Labels, model and layer
// are those of info.
func Fit(ctx context.Context, info Info, train, validation Data) (*Head, error) {
	if err := checkLabels(info.Labels); err != nil {
		return nil, err
	}
	if len(train.X) == 0 || len(validation.X) == 0 {
		return nil, fmt.Errorf("%d texts to fit to and %d to validate with: there must be some of both", len(train.X), len(validation.X))
	}
	m, err := newMoments(ctx, train, len(info.Labels), false)
	if err != nil {
		return nil, err
	}
	var best *Head
	var logits [][]float64
	bestLoss := math.Inf(1)
	space := &workspace{}
	for _, shrinkage := range shrinkages {
		h, err := m.head(ctx, info, shrinkage, space)
		if err != nil {
			return nil, err
		}
		of := make([][]float64, len(validation.X))
		for i, x := range validation.X {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			of[i] = h.Logits(x)
		}
		if h.Temperature, err = bestTemperature(ctx, of, validation.Y); err != nil {
			return nil, err
		}
		loss := logLoss(of, validation.Y, h.Temperature)
		if !(loss < bestLoss-leastGain) {
			break // less shrinkage fits the training part only
		}
		best, logits, bestLoss = h, of, loss
	}
	if best == nil {
		return nil, errNoLoss
	}
	if best.Temperature, err = modest(ctx, best.Temperature, logits, validation.Y, func(int) float64 { return 1 / float64(len(validation.Y)) }); err != nil {
		return nil, err
	}
	distances := make([]float64, len(validation.X))
	for i, x := range validation.X {
		distances[i] = best.Distance(x)
	}
	best.Texts = len(train.X)
	best.setThresholds(logits, distances)
	return best, best.check()
}

// errNoLoss: the hidden states that were held back have values that are not numbers.
var errNoLoss = errors.New("the fit failed: no finite loss on held-back data")

// logLoss is the mean negative log-probability of the right labels at a temperature.
func logLoss(logits [][]float64, truth []int, temperature float64) float64 {
	total := 0.0
	for i, y := range truth {
		total -= math.Log(max(probabilities(logits[i], temperature)[y], 1e-300))
	}
	return total / float64(len(truth))
}

// bestTemperature is the temperature with the least loss.
func bestTemperature(ctx context.Context, logits [][]float64, truth []int) (float64, error) {
	temperature := engine.BestTemperature(func(temperature float64) float64 {
		if ctx.Err() != nil {
			return 0 // the search ends without further work
		}
		return logLoss(logits, truth, temperature)
	}, widestLogTemperature)
	return temperature, ctx.Err()
}

// modest is a temperature, raised if the mean probability of the chosen labels would be more than n vectors can make likely: (n+1)/(n+2), by the rule of
// succession. Where all of them are right, a temperature of 0 fits best, which would make the head certain of whatever comes next.
func modest(ctx context.Context, temperature float64, logits [][]float64, truth []int, weight func(label int) float64) (float64, error) {
	n := float64(len(truth))
	least, err := temperatureOf(ctx, logits, truth, weight, (n+1)/(n+2))
	return max(temperature, least), err
}

// temperatureOf is the temperature at which the mean probability of the chosen labels is a share; weight is what a vector of a label counts, one in total.
func temperatureOf(ctx context.Context, logits [][]float64, truth []int, weight func(label int) float64, share float64) (float64, error) {
	low, high := -float64(widestLogTemperature), float64(widestLogTemperature)
	for range 40 { // the probability falls as the temperature rises
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		middle, mean := (low+high)/2, 0.0
		for i, y := range truth {
			mean += weight(y) * slices.Max(probabilities(logits[i], math.Exp(middle)))
		}
		if mean > share {
			low = middle
		} else {
			high = middle
		}
	}
	return math.Exp((low + high) / 2), nil
}

// quantile is the value below which a share of the values lies.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}
