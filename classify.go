package mlx

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Classify finds the label that fits each text best.
func (m *model) Classify(ctx context.Context, texts, labels []string, options ...ClassifyOption) ([]Classification, error) {
	o := classifyOptionsOf(labels, options)
	if o.err != nil {
		return nil, o.err
	}
	results, err := m.classify(ctx, texts, o)
	return results, named(err)
}

func (m *model) classify(ctx context.Context, texts []string, o classifyOptions) ([]Classification, error) {
	labels := o.Labels
	if o.classifier != nil {
		return m.classifyByHead(ctx, texts, o)
	}
	if o.prior == "" {
		o.prior = PriorContentFree
	}
	if o.Prompt == "" {
		var err error
		if o.Prompt, err = m.defaultPrompt(ctx); err != nil {
			return nil, err
		}
	}
	// The prior is computed only for a call that can be answered.
	if err := o.Validate(texts); err != nil {
		return nil, err
	}
	batch := false
	switch o.prior {
	case PriorNone:
	case PriorContentFree, PriorBatch:
		if batch = o.prior == PriorBatch && len(texts) >= leastBatch; batch || len(labels) < 2 || len(texts) == 0 {
			break
		}
		var err error
		if o.Prior, err = m.contentFreePrior(ctx, o.ClassifyOptions); err != nil {
			return nil, err
		}
	default:
		return nil, &OptionError{Option: "Prior", Reason: fmt.Sprintf("there is no %q; there are content-free, batch and none", o.prior)}
	}
	results, err := m.engine.Classify(ctx, texts, o.ClassifyOptions)
	if err == nil && batch {
		o.Prior = meanScores(results, len(labels))
		err = withPrior(results, o.ClassifyOptions)
	}
	if err == nil && m.shadow.chosen() {
		m.shadow.classified(texts, o.ClassifyOptions, results)
	}
	return results, err
}

// classifyWindow is how many texts of a sequence are held at a time: enough for batches of like length.
const classifyWindow = 512

// ClassifyAll classifies a sequence of texts that need not fit into memory: results come in the order of the
// texts, some hundreds of texts later. The sequence ends with an error if one occurs; results
// before it are valid.
func ClassifyAll(ctx context.Context, m TextModel, texts iter.Seq[string], labels []string, options ...ClassifyOption) iter.Seq2[Classification, error] {
	return func(yield func(Classification, error) bool) {
		done := 0
		window := make([]string, 0, classifyWindow)
		flush := func() bool {
			results, err := m.Classify(ctx, window, labels, options...)
			if err != nil {
				yield(Classification{}, fmt.Errorf("texts from %d on: %w", done, err))
				return false
			}
			done += len(results)
			window = window[:0]
			for _, r := range results {
				if !yield(r, nil) {
					return false
				}
			}
			return true
		}
		if texts == nil {
			return
		}
		for text := range texts {
			if window = append(window, text); len(window) == classifyWindow && !flush() {
				return
			}
		}
		if len(window) > 0 {
			flush()
		}
	}
}

// LabelledText is a text with its right label.
type LabelledText struct {
	Text, Label string
	// Group, which may be empty, says where the text comes from, such as a package: see TrainClassifier.
	Group string
}

// Calibrate classifies labelled texts and fits the temperature that makes probabilities match how often they are right, to be
// given to WithCalibration. With WithClassifier, labels are nil or the classifier's. Do not use texts that the model, or the classifier, was trained on: their
// probabilities are too high.
func Calibrate(ctx context.Context, m TextModel, texts []LabelledText, labels []string, options ...ClassifyOption) (Calibration, error) {
	plain := make([]string, len(texts))
	truth := make([]int, len(texts))
	if c := classifyOptionsOf(labels, options).classifier; c != nil && c.head != nil {
		if err := c.checkLabels(labels); err != nil {
			return Calibration{}, err
		}
		labels = c.head.Labels // in the order of results
	}
	for i, t := range texts {
		plain[i] = t.Text
		if truth[i] = slices.Index(labels, t.Label); truth[i] < 0 {
			return Calibration{}, &OptionError{Option: "labels", Reason: fmt.Sprintf("text %d has the label %q, which is none of them", i, t.Label)}
		}
	}
	options = append(slices.Clone(options), WithCalibration(Calibration{Temperature: 1}))
	results, err := m.Classify(ctx, plain, labels, options...)
	if err != nil {
		return Calibration{}, err
	}
	return engine.FitCalibration(results, truth)
}
