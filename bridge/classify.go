package bridge

import (
	"context"
	"fmt"

	"forge.lthn.ai/core/go-mlx/engine"
)

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
	results := make([]engine.Classification, len(texts))
	if err := m.inParts(ctx, cut(len(texts), m.listChunk(len(texts))), func(ctx context.Context, p part) (string, error) {
		return m.classifyPart(ctx, p.from, texts[p.from:p.to], options, results[p.from:p.to])
	}); err != nil {
		return nil, err
	}
	m.counters.classified.Add(int64(len(texts)))
	return results, nil
}

// classifyPart serves texts from the given index of the call on, and says with which weights.
func (m *Model) classifyPart(ctx context.Context, from int, texts []string, options engine.ClassifyOptions, results []engine.Classification) (weights string, err error) {
	prompts, chats := make([]string, len(texts)), m.described.Load().template && !options.Completes()
	for i, text := range texts {
		if chats {
			prompts[i] = options.UserText(text)
		} else {
			prompts[i] = options.PlainPrompt(text)
		}
	}
	labels := options.Labels
	if !chats {
		labels = make([]string, len(options.Labels))
		for i, label := range options.Labels {
			labels[i] = engine.PlainLabel(label)
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
