package head

import (
	"fmt"
	"math"
	"slices"
)

// How a head recognises a text that is unlike all that it was fitted to.
const (
	ByDistance = "distance"
	ByEnergy   = "energy"
)

// Energy is the negative free energy of logits (Liu et al. 2020, arXiv:2010.03759), the log of the sum of their exponentials: low for texts
// that are like none of those fitted to.
func Energy(logits []float64) float64 {
	best := slices.Max(logits)
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(v - best)
	}
	return best + math.Log(sum)
}

// Distance is one minus the cosine of a vector, standardised, and the nearest of the labels' mean directions.
func (h *Head) Distance(x []float32) float64 {
	z, best := direction(x, h.mean, h.scale), -1.0
	for k := range h.Labels {
		sum := 0.0
		for i, c := range h.centres[k*h.size:][:h.size] {
			sum += float64(c) * z[i]
		}
		best = max(best, sum)
	}
	return 1 - best
}

// Unknown reports whether a text, by its logits and its Distance, is of no known domain.
func (h *Head) Unknown(logits []float64, distance float64) bool {
	if h.AbstainBy == ByEnergy {
		return Energy(logits) < h.MinEnergy
	}
	return distance > h.MaxDistance
}

// By returns the head with another way to recognise texts of no known domain.
func (h *Head) By(how string) (*Head, error) {
	if how != ByDistance && how != ByEnergy {
		return nil, fmt.Errorf("texts of no known domain are told by %q or %q and not by %q", ByDistance, ByEnergy, how)
	}
	other := *h
	other.AbstainBy = how
	return &other, nil
}

// setThresholds sets thresholds that let keptKnown of the texts through.
func (h *Head) setThresholds(logits [][]float64, distances []float64) {
	energies := make([]float64, len(logits))
	for i, l := range logits {
		energies[i] = Energy(l)
	}
	h.MinEnergy = quantile(energies, 1-keptKnown)
	h.MaxDistance = quantile(distances, keptKnown)
}
