package bridge

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Texts are sent in requests of at most classifyMost, because a cancelled call stops between requests only. Where workers share a list,
// a request has at least classifyLeast texts, because a pass over few texts is not worth its cost.
const classifyMost, classifyLeast = 256, 32

// Classify scores labels; see engine.Engine. Long lists are spread over the workers.
func (m *Model) Classify(ctx context.Context, texts []string, options engine.ClassifyOptions) ([]engine.Classification, error) {
	if err := options.Validate(texts); err != nil {
		return nil, err
	}
	end, err := m.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	results, weights := make([]engine.Classification, len(texts)), map[int]string{}
	// A list is scored with one set of weights, also when the model is loaded anew meanwhile.
	for range 3 {
		if err := m.classifyParts(ctx, texts, options, results, weights); err != nil {
			return nil, err
		}
		newest := m.described.Load().fingerprint
		maps.DeleteFunc(weights, func(_ int, w string) bool { return w != newest })
		if len(weights) == parts(len(texts), m.classifyChunk(len(texts))) {
			m.counters.classified.Add(int64(len(texts)))
			return results, nil
		}
	}
	return nil, fmt.Errorf("%w again and again while a list was classified", ErrModelChanged)
}

func parts(n, size int) int { return (n + size - 1) / size }

// classifyChunk is how many of n texts go into one request.
func (m *Model) classifyChunk(n int) int {
	return min(max(parts(n, m.pool.limits.max), classifyLeast), classifyMost)
}

// classifyParts scores those parts of a list that have no entry in weights yet, and enters the fingerprint of the weights that scored them.
func (m *Model) classifyParts(ctx context.Context, texts []string, options engine.ClassifyOptions, results []engine.Classification, weights map[int]string) error {
	labels := options.Labels
	if !m.described.Load().template || options.Completes() {
		labels = make([]string, len(options.Labels))
		for i, label := range options.Labels {
			labels[i] = engine.PlainLabel(label)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	var mu sync.Mutex // guards weights
	limit, chunk := make(chan struct{}, m.pool.limits.max), m.classifyChunk(len(texts))
	for from := 0; from < len(texts); from += chunk {
		mu.Lock()
		_, done := weights[from]
		mu.Unlock()
		if done {
			continue
		}
		limit <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		to := min(from+chunk, len(texts))
		group.Go(func() {
			defer func() { <-limit }()
			by, err := m.classifyPart(ctx, from, texts[from:to], labels, options, results[from:to])
			if err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			weights[from] = by
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// classifyPart serves texts from the given index of the call on, and says with which weights.
func (m *Model) classifyPart(ctx context.Context, from int, texts, labels []string, options engine.ClassifyOptions, results []engine.Classification) (weights string, err error) {
	prompts, chats := make([]string, len(texts)), m.described.Load().template && !options.Completes()
	for i, text := range texts {
		if chats {
			prompts[i] = options.UserText(text)
		} else {
			prompts[i] = options.PlainPrompt(text)
		}
	}
	reply, weights, err := m.call(ctx, &classifyRequest{head: head{Type: "classify"}, From: from, Texts: prompts, Labels: labels, Completes: options.Completes()})
	if err != nil {
		return "", err
	}
	if len(reply.Scores) != len(texts) {
		return "", fmt.Errorf("%w: scores for %d texts, want %d", errProtocol, len(reply.Scores), len(texts))
	}
	for i, scores := range reply.Scores {
		if results[i], err = options.Result(scores); err != nil {
			return "", fmt.Errorf("text %d: %w", from+i, err)
		}
	}
	return weights, nil
}
