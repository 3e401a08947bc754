package engine

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// DefaultLabelPrompt asks for a label. {labels} becomes the labels, joined by commas, and {text} the
// text. What precedes the text is the same for all texts of a call and is prefilled once.
const DefaultLabelPrompt = "Classify the text. Answer with one of: {labels}.\n\nText: {text}"

// CompletionLabelPrompt is the prompt for a model without a chat template, which was trained to continue texts and not to answer. The label is
// the next word of a sentence.
const CompletionLabelPrompt = `"{text}" is a sentence about {label}`

// labelMark ends a prompt that the label completes.
const labelMark = "{label}"

// ClassifyOptions are the settings of one classification call.
type ClassifyOptions struct {
	Labels []string
	// Details describe labels, by name; labels without details are left as they are.
	Details map[string]LabelDetails
	// Prompt is the user's turn of a chat, or the whole prompt for a model without a chat template. One that ends with {label} is
	// completed by the label, also by a model with a chat template, which is not used then.
	Prompt string
	// Prior is subtracted from the labels' scores, in their order; nil for nothing. Package mlx sets it to the scores of texts that say nothing.
	Prior []float64
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
			return &OptionError{Option: "labels", Reason: fmt.Sprintf("label %d: %v", i, ErrInvalidUTF8), Err: ErrInvalidUTF8}
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
		return notUTF8("LabelPrompt")
	}
	if strings.Count(o.Prompt, "{text}") != 1 {
		return &OptionError{Option: "LabelPrompt", Reason: "it must hold {text} exactly once"}
	}
	if n := strings.Count(o.Prompt, labelMark); n > 1 || n == 1 && !o.Completes() {
		return &OptionError{Option: "LabelPrompt", Reason: "{label}, where the label stands, must be at its end"}
	}
	if o.Prior != nil && len(o.Prior) != len(o.Labels) {
		return &OptionError{Option: "Prior", Reason: fmt.Sprintf("%d values for %d labels", len(o.Prior), len(o.Labels))}
	}
	if err := o.checkDetails(); err != nil {
		return err
	}
	return checkTexts(texts)
}

// Completes reports whether the label completes the prompt. Such a prompt is not put into the chat template.
func (o ClassifyOptions) Completes() bool { return strings.HasSuffix(o.Prompt, labelMark) }

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
	if o.Prior != nil {
		scores = slices.Clone(scores)
		for i := range scores {
			scores[i] -= o.Prior[i]
		}
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

// PlainPrompt is the whole prompt for a text where the chat template is not used.
func (o ClassifyOptions) PlainPrompt(text string) string {
	user := o.UserText(text)
	if o.Completes() {
		return user
	}
	return user + "\n\nLabel:"
}

// PlainLabel is a label as text that follows PlainPrompt.
func PlainLabel(label string) string { return " " + label }
