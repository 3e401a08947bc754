// Package head is a linear classifier on a model's hidden states: fitting it, its file, and the measures by which it is judged. It knows
// vectors and labels, and nothing of models.
package head

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Head is a multinomial logistic regression with what is known of it.
type Head struct {
	Info
	weight []float32 // [labels, size]
	bias   []float32 // [labels]
	size   int
}

// Info is what a head's file says of it besides its numbers.
type Info struct {
	Labels []string `json:"labels"`
	// Model is the hash of the model whose states the head reads; Architecture is for people.
	Model        string `json:"model"`
	Architecture string `json:"architecture"`
	Layer        int    `json:"layer"` // whose output is read, from 1 on
	// Temperature divides logits before their softmax.
	Temperature float64 `json:"temperature"`
	// MinEnergy is the Energy below which a text counts as of no known domain.
	MinEnergy  float64   `json:"min_energy"`
	Penalty    float64   `json:"penalty"` // weight of half the weights' squared norm, chosen on the validation part
	Texts      int       `json:"texts"`   // fitted to
	DataDate   time.Time `json:"data_date"`
	DataHash   string    `json:"data_hash"` // SHA-256 of labels and texts
	Validation *Report   `json:"validation"`
}

// Size is the length of the vectors.
func (h *Head) Size() int { return h.size }

// check refuses what no head can be.
func (h *Head) check() error {
	if err := checkLabels(h.Labels); err != nil {
		return err
	}
	k := len(h.Labels)
	switch {
	case h.size < 1 || len(h.weight) != k*h.size || len(h.bias) != k:
		return fmt.Errorf("%d weights and %d biases for %d labels", len(h.weight), len(h.bias), k)
	case h.Layer < 1:
		return fmt.Errorf("layer %d", h.Layer)
	case !(h.Temperature > 0) || math.IsInf(h.Temperature, 0):
		return fmt.Errorf("temperature %v is not a positive number", h.Temperature)
	case math.IsNaN(h.MinEnergy) || math.IsInf(h.MinEnergy, 0):
		return fmt.Errorf("energy threshold %v is not a number", h.MinEnergy)
	}
	for _, values := range [][]float32{h.weight, h.bias} {
		for _, v := range values {
			if v != v || v-v != 0 {
				return fmt.Errorf("a weight is %v", v)
			}
		}
	}
	return nil
}

func checkLabels(labels []string) error {
	if len(labels) < 2 {
		return fmt.Errorf("%d labels; at least two are needed", len(labels))
	}
	for i, label := range labels {
		switch {
		case strings.TrimSpace(label) == "" || !utf8.ValidString(label):
			return fmt.Errorf("label %d is empty or not UTF-8", i)
		case slices.Contains(labels[:i], label):
			return fmt.Errorf("label %q occurs twice", label)
		}
	}
	return nil
}

// Logits are the labels' scores for a vector.
func (h *Head) Logits(x []float32) []float64 {
	out := make([]float64, len(h.Labels))
	for k := range out {
		sum := float64(h.bias[k])
		for i, w := range h.weight[k*h.size:][:h.size] {
			sum += float64(w) * float64(x[i])
		}
		out[k] = sum
	}
	return out
}

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

// Unknown reports whether logits are those of a text of no known domain.
func (h *Head) Unknown(logits []float64) bool { return Energy(logits) < h.MinEnergy }

// probabilities is the softmax of logits at a temperature.
func probabilities(logits []float64, temperature float64) []float64 {
	best := slices.Max(logits)
	out, sum := make([]float64, len(logits)), 0.0
	for i, v := range logits {
		out[i] = math.Exp((v - best) / temperature)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// Predict makes a prediction of a vector. Truth, language and text are the caller's.
func (h *Head) Predict(x []float32) Prediction {
	logits := h.Logits(x)
	p := probabilities(logits, h.Temperature)
	best := 0
	for k := range p {
		if p[k] > p[best] {
			best = k
		}
	}
	return Prediction{Label: h.Labels[best], Probability: p[best], Confidence: Energy(logits), Unknown: h.Unknown(logits)}
}
