package mlx

import (
	"maps"

	"forge.lthn.ai/core/go-mlx/engine"
)

// ClassifyOption changes one classification call.
type ClassifyOption struct {
	apply func(*classifyOptions)
}

type classifyOptions struct {
	engine.ClassifyOptions
	prior      Prior // "" for the default
	classifier *Classifier
	err        error // about the first invalid option
}

func classifyOptionsOf(labels []string, options []ClassifyOption) classifyOptions {
	o := classifyOptions{ClassifyOptions: engine.ClassifyOptions{Labels: labels}}
	for _, option := range options {
		if option.apply != nil {
			option.apply(&o)
		}
	}
	return o
}

// fail remembers the first option with an invalid value.
func (o *classifyOptions) fail(option, reason string) {
	if o.err == nil {
		o.err = &OptionError{Option: option, Reason: reason}
	}
}

// DefaultLabelPrompt is the prompt of Classify for a model with a chat template. {labels} becomes the labels, joined by commas, and
// {text} the text.
const DefaultLabelPrompt = engine.DefaultLabelPrompt

// CompletionLabelPrompt is the prompt of Classify for a model without a chat template. {label} is replaced by each label.
const CompletionLabelPrompt = engine.CompletionLabelPrompt

// LabelDetails describe a label; see [engine.LabelDetails].
type LabelDetails = engine.LabelDetails

// WithClassifier classifies with a trained classifier instead of a prompt: Classify's labels must be nil or those of the classifier,
// whose order results have. A text like none of those trained with is marked as abstained; see also WithAbstain. Native engine only.
func WithClassifier(c *Classifier) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) {
		if o.classifier = c; c == nil || c.head == nil {
			o.fail("WithClassifier", "it is nil or empty; leave the option out to classify by a prompt")
		}
	}}
}

// WithCalibration uses a fitted temperature; see Calibrate. Labels stay the same, probabilities change.
func WithCalibration(c Calibration) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) {
		if o.Temperature = c.Temperature; c.Temperature == 0 {
			o.fail("WithCalibration", "its temperature is 0: take what Calibrate returns, or leave the option out")
		}
	}}
}

// WithAbstain marks results whose best label is less probable than p as abstained.
func WithAbstain(p float64) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) { o.MinProbability = p }}
}

// LabelOption says how a model is asked for a label; see WithLabels.
type LabelOption struct{ apply func(*classifyOptions) }

// WithLabels says how the model is asked for a label, where no trained classifier is used.
func WithLabels(options ...LabelOption) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) {
		for _, option := range options {
			if option.apply != nil {
				option.apply(o)
			}
		}
	}}
}

// LabelPrompt replaces the prompt. It must hold {text} exactly once; what precedes it is computed once for all texts, so put the
// instruction first. It may hold {labels}. One that ends with {label} is completed by the labels without a chat template, as
// CompletionLabelPrompt is, also by a model that has one.
func LabelPrompt(prompt string) LabelOption {
	return LabelOption{func(o *classifyOptions) {
		if o.Prompt = prompt; prompt == "" {
			o.fail("LabelPrompt", "it is empty; leave the option out for the default")
		}
	}}
}

// LabelDescriptions describes labels, by name, and gives examples of texts that they are right for. Both become part of the prompt, in
// front of the text, and are computed once for all texts. Descriptions follow the labels in {labels}, or are lines of their own
// before a prompt without {labels} that the label completes.
func LabelDescriptions(details map[string]LabelDetails) LabelOption {
	details = maps.Clone(details)
	return LabelOption{func(o *classifyOptions) { o.Details = details }}
}

// Prior says what is taken from the labels' scores, since a model prefers some labels whatever the text.
type Prior string

// Priors.
const (
	// PriorContentFree, the default, is the mean score of each label for texts that say nothing (contextual calibration, Zhao et al.
	// 2021, arXiv:2102.09690, in log-probabilities, which is also domain-conditional PMI, Holtzman et al. 2021, arXiv:2104.08315). It is
	// learned when labels are first used and kept with them: a result does not depend on the other texts of a call.
	PriorContentFree Prior = "content-free"
	// PriorBatch is the mean score of each label over the texts of a call (batch calibration, Zhou et al. 2023, arXiv:2309.17249). It
	// takes for granted that all labels are about as frequent, so it spoils a call whose texts are all of one kind; a call of fewer than
	// 16 texts falls back to PriorContentFree.
	PriorBatch Prior = "batch"
	// PriorNone leaves scores as they are.
	PriorNone Prior = "none"
)

// LabelPrior chooses what is taken from the labels' scores; the default is PriorContentFree.
func LabelPrior(p Prior) LabelOption {
	return LabelOption{func(o *classifyOptions) { o.prior = p }}
}
