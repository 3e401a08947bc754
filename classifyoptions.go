package mlx

import "forge.lthn.ai/core/go-mlx/engine"

// ClassifyOption changes one classification call.
type ClassifyOption struct {
	apply func(*classifyOptions)
}

type classifyOptions struct {
	engine.ClassifyOptions
	prior      Prior // "" for the default
	classifier *Classifier
}

// DefaultLabelPrompt is the prompt of Classify for a model with a chat template. {labels} becomes the labels, joined by commas, and
// {text} the text.
const DefaultLabelPrompt = engine.DefaultLabelPrompt

// CompletionLabelPrompt is the prompt of Classify for a model without a chat template. {label} is where the label stands.
const CompletionLabelPrompt = engine.CompletionLabelPrompt

// WithLabelPrompt replaces the prompt. It must hold {text} exactly once; what stands before it is computed once for all texts,
// so put the instruction first. It may hold {labels}. One that ends with {label} is completed by the labels without a chat
// template, as CompletionLabelPrompt is, also by a model that has one.
func WithLabelPrompt(prompt string) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) { o.Prompt = prompt }}
}

// LabelDetails say what a label stands for.
type LabelDetails = engine.LabelDetails

// WithLabelDetails describes labels, by name, and gives examples of texts that they are right for. Both become part of the prompt, in front
// of the text, and are computed once for all texts. Descriptions stand behind the labels in {labels}, or in lines
// of their own before a prompt without {labels} that the label completes.
func WithLabelDetails(details map[string]LabelDetails) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) { o.Details = details }}
}

// Prior says what is taken from the labels' scores, since a model prefers some labels whatever the text.
type Prior string

// Priors.
const (
	// PriorContentFree, the default, is the mean score of each label for texts that say nothing (contextual calibration, Zhao et al.
	// 2021, arXiv:2102.09690, in log-probabilities, which is also domain-conditional PMI, Holtzman et al. 2021, arXiv:2104.08315). It is
	// learned when labels are first used and kept with them: a result does not depend on a text's company.
	PriorContentFree Prior = "content-free"
	// PriorBatch is the mean score of each label over the texts of a call (batch calibration, Zhou et al. 2023, arXiv:2309.17249). It
	// takes for granted that all labels are about as frequent, so a call of texts of one kind is spoilt by it; a call of fewer than
	// 16 texts falls back to PriorContentFree.
	PriorBatch Prior = "batch"
	// PriorNone leaves scores as they are.
	PriorNone Prior = "none"
)

// WithPrior chooses what is taken from the labels' scores.
func WithPrior(p Prior) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) { o.prior = p }}
}

// WithCalibration uses a fitted temperature; see Calibrate. Labels stay the same, probabilities change.
func WithCalibration(c Calibration) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) { o.Temperature = c.Temperature }}
}

// WithAbstain marks results whose best label is less probable than p as abstained.
func WithAbstain(p float64) ClassifyOption {
	return ClassifyOption{func(o *classifyOptions) { o.MinProbability = p }}
}
