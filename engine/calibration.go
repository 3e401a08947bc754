package engine

import (
	"errors"
	"fmt"
	"math"
)

// Calibration makes probabilities match how often they are right: of the texts that get a label with probability 0.8, about 80 in
// 100 should have it. Scores are divided by the temperature before their softmax (Guo et al. 2017,
// arXiv:1706.04599), which changes no label.
type Calibration struct {
	Temperature float64 `json:"temperature"`
	Texts       int     `json:"texts"`
	Accuracy    float64 `json:"accuracy"`
	// ECE is the expected calibration error: the mean distance of probability and accuracy over ten bins of
	// the best label's probability, weighted by their texts. NLL is the mean negative log-probability of
	// the right label. Both before (at temperature 1) and after, on the texts that were fitted to: measure
	// on other texts what is to be claimed.
	ECEBefore float64 `json:"ece_before"`
	ECEAfter  float64 `json:"ece_after"`
	NLLBefore float64 `json:"nll_before"`
	NLLAfter  float64 `json:"nll_after"`
}

const (
	calibrationBins = 10
	// The temperature is looked for between e^-7 and e^7.
	widestLogTemperature = 7
)

// ErrNoTexts: a calibration was asked for without labelled texts.
var ErrNoTexts = errors.New("no labelled texts to calibrate with")

// FitCalibration finds the temperature with the least NLL for results computed at temperature 1. truth is
// the index of each text's right label.
func FitCalibration(results []Classification, truth []int) (Calibration, error) {
	if len(results) == 0 || len(results) != len(truth) {
		return Calibration{}, fmt.Errorf("%w: %d results for %d labels", ErrNoTexts, len(results), len(truth))
	}
	nll := func(temperature float64) float64 { v, _, _ := reliability(results, truth, temperature); return v }
	c := Calibration{Temperature: BestTemperature(nll, widestLogTemperature), Texts: len(results)}
	c.NLLBefore, c.ECEBefore, c.Accuracy = reliability(results, truth, 1)
	c.NLLAfter, c.ECEAfter, _ = reliability(results, truth, c.Temperature)
	return c, nil
}

// BestTemperature is the temperature between e^-widest and e^widest at which the mean negative log-probability of the right labels is
// least. That is convex in the inverse temperature, so it has one minimum, which golden sections find.
func BestTemperature(nll func(temperature float64) float64, widest float64) float64 {
	low, high, golden := -widest, widest, (math.Sqrt(5)-1)/2
	for high-low > 1e-6 {
		a, b := high-golden*(high-low), low+golden*(high-low)
		if nll(math.Exp(a)) < nll(math.Exp(b)) {
			high = b
		} else {
			low = a
		}
	}
	return math.Exp((low + high) / 2)
}

// reliability measures results at a temperature.
func reliability(results []Classification, truth []int, temperature float64) (nll, ece, accuracy float64) {
	var count, right, confidence [calibrationBins]float64
	for i, r := range results {
		scores := make([]float64, len(r.Scores))
		for k, s := range r.Scores {
			scores[k] = s.Score
		}
		best, logProbs := logSoftmax(scores, temperature)
		nll -= logProbs[truth[i]]
		p := math.Exp(logProbs[best])
		bin := min(int(p*calibrationBins), calibrationBins-1)
		count[bin]++
		confidence[bin] += p
		if best == truth[i] {
			right[bin]++
			accuracy++
		}
	}
	n := float64(len(results))
	for b := range count {
		ece += math.Abs(confidence[b]-right[b]) / n
	}
	return nll / n, ece, accuracy / n
}

// logSoftmax is the log-probabilities of scores at a temperature, and the index of the best.
func logSoftmax(scores []float64, temperature float64) (best int, out []float64) {
	for i, s := range scores {
		if s > scores[best] {
			best = i
		}
	}
	total := 0.0
	for _, s := range scores {
		total += math.Exp((s - scores[best]) / temperature)
	}
	out = make([]float64, len(scores))
	for i, s := range scores {
		out[i] = (s-scores[best])/temperature - math.Log(total)
	}
	return best, out
}
