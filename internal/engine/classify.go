package engine

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// DefaultLabelPrompt asks for a label. {labels} becomes the labels, joined by commas, and {text} the
// text. What stands before the text is the same for all texts of a call and is prefilled once.
const DefaultLabelPrompt = "Classify the text. Answer with one of: {labels}.\n\nText: {text}"

// ClassifyOptions are the settings of one classification call.
type ClassifyOptions struct {
	Labels []string
	// Prompt is the user's turn of a chat, or the whole prompt for a model without a chat template.
	Prompt string
	// Temperature divides the scores before their softmax; 0 for 1.
	Temperature float64
	// MinProbability is what the best label must reach; below it the result is marked as abstained.
	MinProbability float64
}

// Validate checks the options and the texts.
func (o ClassifyOptions) Validate(texts []string) error {
	if len(o.Labels) == 0 {
		return &OptionError{Option: "labels", Reason: "no labels were given"}
	}
	for i, label := range o.Labels {
		switch {
		case strings.TrimSpace(label) == "":
			return &OptionError{Option: "labels", Reason: fmt.Sprintf("label %d is empty", i)}
		case !utf8.ValidString(label):
			return fmt.Errorf("label %d: %w", i, ErrInvalidUTF8)
		case slices.Contains(o.Labels[:i], label):
			return &OptionError{Option: "labels", Reason: fmt.Sprintf("label %q is given twice", label)}
		}
	}
	switch {
	case !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0):
		return &OptionError{Option: "Calibration", Reason: fmt.Sprintf("temperature %v is not a number from 0 up", o.Temperature)}
	case !(o.MinProbability >= 0 && o.MinProbability <= 1):
		return &OptionError{Option: "Abstain", Reason: fmt.Sprintf("probability %v is not between 0 and 1", o.MinProbability)}
	}
	if !utf8.ValidString(o.Prompt) {
		return fmt.Errorf("option LabelPrompt: %w", ErrInvalidUTF8)
	}
	if strings.Count(o.Prompt, "{text}") != 1 {
		return &OptionError{Option: "LabelPrompt", Reason: "it must hold {text} exactly once"}
	}
	return checkTexts(texts)
}

// UserText fills the prompt for one text. A text that holds "{labels}" is not filled again.
func (o ClassifyOptions) UserText(text string) string {
	before, after, _ := strings.Cut(o.Prompt, "{text}")
	labels := strings.Join(o.Labels, ", ")
	return strings.ReplaceAll(before, "{labels}", labels) + text + strings.ReplaceAll(after, "{labels}", labels)
}

// Result turns the labels' mean log-probabilities into a result.
func (o ClassifyOptions) Result(scores []float64) (Classification, error) {
	if len(scores) != len(o.Labels) {
		return Classification{}, fmt.Errorf("classify: %d scores for %d labels", len(scores), len(o.Labels))
	}
	for i, score := range scores {
		if math.IsNaN(score) {
			return Classification{}, fmt.Errorf("classify: the score of label %q is not a number: the model's weights or their dtype are broken", o.Labels[i])
		}
	}
	temperature := o.Temperature
	if temperature == 0 {
		temperature = 1
	}
	best, logProbs := logSoftmax(scores, temperature)
	c := Classification{Label: o.Labels[best], Margin: 1, Scores: make([]LabelScore, len(scores))}
	second := -1
	for i, score := range scores {
		c.Scores[i] = LabelScore{Label: o.Labels[i], Score: score, Probability: math.Exp(logProbs[i])}
		if i != best && (second < 0 || score > scores[second]) {
			second = i
		}
	}
	c.Probability = c.Scores[best].Probability
	if second >= 0 {
		c.Margin = c.Probability - c.Scores[second].Probability
	}
	c.Abstained = c.Probability < o.MinProbability
	return c, nil
}

// PlainPrompt ends the prompt for a model without a chat template, where no turn is opened for the
// answer.
func PlainPrompt(user string) string { return user + "\n\nLabel:" }

// PlainLabel is a label as it follows PlainPrompt.
func PlainLabel(label string) string { return " " + label }
