package mlx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
)

// contentFree are texts that say nothing, for which every label is as right as the other.
var contentFree = []string{"N/A", "[MASK]", "...", "-", "text"}

const (
	// leastBatch is how many texts a mean over a call needs.
	leastBatch = 16
	// maxPriors is how many sets of labels keep their prior: callers switch between a few.
	maxPriors = 16
)

// priors remembers what content-free texts score. It is safe for concurrent use.
type priors struct {
	mu        sync.Mutex
	completes *bool // whether the model has no chat template; nil if not asked yet
	entries   []priorEntry
}

type priorEntry struct {
	key   string
	prior []float64
}

func (p *priors) get(key string) ([]float64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		if e.key == key {
			return e.prior, true
		}
	}
	return nil, false
}

func (p *priors) put(key string, prior []float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries = append(p.entries, priorEntry{key, prior}); len(p.entries) > maxPriors {
		p.entries = slices.Delete(p.entries, 0, 1)
	}
}

// defaultPrompt is the label prompt for the model's kind.
func (m *model) defaultPrompt(ctx context.Context) (string, error) {
	m.priors.mu.Lock()
	known := m.priors.completes
	m.priors.mu.Unlock()
	if known == nil {
		_, err := m.engine.RenderChat(ctx, []Message{{Role: "user", Content: "a"}}, engine.DefaultGenerateOptions())
		completes := errors.Is(err, ErrNoChatTemplate)
		if err != nil && !completes {
			return "", err
		}
		known = &completes
		m.priors.mu.Lock()
		m.priors.completes = known
		m.priors.mu.Unlock()
	}
	if *known {
		return CompletionLabelPrompt, nil
	}
	return DefaultLabelPrompt, nil
}

// contentFreePrior is the labels' mean score for texts that say nothing.
func (m *model) contentFreePrior(ctx context.Context, o engine.ClassifyOptions) ([]float64, error) {
	key := fmt.Sprintf("%q %q %q", o.Prompt, o.Labels, o.UserText("")) // the last for the details
	if prior, ok := m.priors.get(key); ok {
		return prior, nil
	}
	results, err := m.engine.Classify(ctx, contentFree, engine.ClassifyOptions{Labels: o.Labels, Details: o.Details, Prompt: o.Prompt})
	if err != nil {
		return nil, err
	}
	prior := meanScores(results, len(o.Labels))
	m.priors.put(key, prior)
	return prior, nil
}

// meanScores is each label's mean score.
func meanScores(results []Classification, labels int) []float64 {
	mean := make([]float64, labels)
	for _, r := range results {
		for l, s := range r.Scores {
			mean[l] += s.Score / float64(len(results))
		}
	}
	return mean
}

// withPrior is results anew with a prior.
func withPrior(results []Classification, o engine.ClassifyOptions) error {
	scores := make([]float64, len(o.Labels))
	for i, r := range results {
		for l, s := range r.Scores {
			scores[l] = s.Score
		}
		var err error
		if results[i], err = o.Result(scores); err != nil {
			return err
		}
	}
	return nil
}
