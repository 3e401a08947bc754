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

// Distance is one minus the cosine of a vector, standardised, and the nearest of the labels' mean vectors.
func (h *Head) Distance(x []float32) float64 {
	squares, best := 0.0, -1.0
	z := make([]float64, h.size)
	for i, v := range x {
		z[i] = (float64(v) - float64(h.mean[i])) * float64(h.scale[i])
		squares += z[i] * z[i]
	}
	if squares == 0 {
		return 1
	}
	for k := range h.Labels {
		sum := 0.0
		for i, c := range h.centres[k*h.size:][:h.size] {
			sum += float64(c) * z[i]
		}
		best = max(best, sum/math.Sqrt(squares))
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

// centres are the directions of the labels' mean vectors, standardised: [labels, size], each of length 1 or 0.
func (p *problem) centres() []float32 {
	sums := make([]float64, p.k*p.d)
	for i, y := range p.y {
		for j, v := range p.x.Data[i*p.d:][:p.d] {
			sums[y*p.d+j] += float64(v)
		}
	}
	out := make([]float32, p.k*p.d)
	for k := range p.k {
		squares := 0.0
		for _, v := range sums[k*p.d:][:p.d] {
			squares += v * v
		}
		for j := range p.d {
			if squares > 0 {
				out[k*p.d+j] = float32(sums[k*p.d+j] / math.Sqrt(squares))
			}
		}
	}
	return out
}
