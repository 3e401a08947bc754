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

	"forge.lthn.ai/core/go-mlx/engine"
)

// Head is a linear discriminant with what is known of it.
type Head struct {
	Info
	mean, scale []float32 // [size]; see direction, which is all that is read of a vector
	weight      []float32 // [labels, size]
	bias        []float32 // [labels]
	centres     []float32 // [labels, size]: the labels' mean directions, for Distance
	size        int
}

// Info is what a head's file says of it besides its numbers.
type Info struct {
	Labels []string `json:"labels"`
	// Model is the hash of the model whose states the head reads; Architecture is for people.
	Model        string `json:"model"`
	Architecture string `json:"architecture"`
	Layer        int    `json:"layer"` // whose output is read, from 1 on
	// Prompt is what texts are put into, and the state of its last token is read; without one the mean over the text's tokens.
	Prompt string `json:"prompt,omitempty"`
	// Temperature divides logits before their softmax.
	Temperature float64 `json:"temperature"`
	// AbstainBy is "distance" or "energy": a text counts as of no known domain if its Distance is above MaxDistance, or if its Energy is
	// below MinEnergy.
	AbstainBy   string    `json:"abstain_by"`
	MinEnergy   float64   `json:"min_energy"`
	MaxDistance float64   `json:"max_distance"`
	Shrinkage   float64   `json:"shrinkage"` // of the covariance, from 0 to 1 (moments.head), chosen on the validation part
	Texts       int       `json:"texts"`     // how many it was fitted to
	DataDate    time.Time `json:"data_date"`
	DataHash    string    `json:"data_hash"` // SHA-256 of labels and texts
	Validation  *Report   `json:"validation"`
}

// Size is the length of the vectors.
func (h *Head) Size() int { return h.size }

// check refuses values that no head can have.
func (h *Head) check() error {
	if err := checkLabels(h.Labels); err != nil {
		return err
	}
	if err := engine.CheckStatesPrompt(h.Prompt); err != nil {
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
	case len(h.mean) != h.size || len(h.scale) != h.size || len(h.centres) != k*h.size:
		return fmt.Errorf("%d means, %d scales and %d values of centres for %d labels", len(h.mean), len(h.scale), len(h.centres), k)
	case h.AbstainBy != ByDistance && h.AbstainBy != ByEnergy:
		return fmt.Errorf("it abstains by %q, which is neither %q nor %q", h.AbstainBy, ByDistance, ByEnergy)
	case math.IsNaN(h.MaxDistance) || math.IsInf(h.MaxDistance, 0):
		return fmt.Errorf("distance threshold %v is not a number", h.MaxDistance)
	case math.IsNaN(h.MinEnergy) || math.IsInf(h.MinEnergy, 0):
		return fmt.Errorf("energy threshold %v is not a number", h.MinEnergy)
	}
	for _, values := range [][]float32{h.weight, h.bias, h.mean, h.scale, h.centres} {
		for _, v := range values {
			if v != v || v-v != 0 {
				return fmt.Errorf("a number is %v", v)
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
	z, out := direction(x, h.mean, h.scale), make([]float64, len(h.Labels))
	for k := range out {
		sum := float64(h.bias[k])
		for i, w := range h.weight[k*h.size:][:h.size] {
			sum += float64(w) * z[i]
		}
		out[k] = sum
	}
	return out
}

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
func (h *Head) Predict(x []float32) Prediction { return h.prediction(h.Logits(x), h.Distance(x)) }

func (h *Head) prediction(logits []float64, distance float64) Prediction {
	p := probabilities(logits, h.Temperature)
	best := largest(p)
	return Prediction{Label: h.Labels[best], Probability: p[best], Confidence: p[best], Unknown: h.Unknown(logits, distance)}
}

// largest is the index of the first largest value.
func largest(values []float64) int {
	best := 0
	for k, v := range values {
		if v > values[best] {
			best = k
		}
	}
	return best
}
