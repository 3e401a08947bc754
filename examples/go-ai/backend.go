// Package goai is a Backend over go-mlx, in the shape that go-ai's backends have: a prompt or a chat in, a text with figures
// out, whole or through a callback. Copy it and put go-ai's own types in the place of those below.
package goai

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Options are those that go-ai gives with a request; a zero value means the default.
type Options struct {
	Temperature   float64
	MaxTokens     int
	TopK          int
	TopP          float64
	RepeatPenalty float64
	StopTokens    []int32
	StopSequences []string
	Model         string // the backend has one model; another name is an error
}

// Result is an answer.
type Result struct {
	Text    string
	Metrics Metrics
}

// Metrics are figures of one answer.
type Metrics struct {
	PromptTokens, GeneratedTokens int
	FirstToken, Total             time.Duration
	FinishReason                  string
}

// Backend serves one loaded model. It is safe for concurrent use.
type Backend struct {
	model mlx.TextModel
	name  string
}

// New loads a model; name is what requests call it. The caller closes the backend.
func New(ctx context.Context, name, path string, options ...mlx.LoadOption) (*Backend, error) {
	m, err := mlx.LoadModelContext(ctx, path, options...)
	if err != nil {
		return nil, err
	}
	return &Backend{model: m, name: name}, nil
}

// Name tells the backend and its engine, e.g. "mlx-native".
func (b *Backend) Name() string { return "mlx-" + string(b.model.Info().Engine) }

// Available reports whether requests can be served.
func (b *Backend) Available() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := b.model.Metrics(ctx)
	return err == nil
}

// Close gives all memory back; requests under way end with mlx.ErrClosed.
func (b *Backend) Close() error { return b.model.Close() }

// Generate continues a prompt.
func (b *Backend) Generate(ctx context.Context, prompt string, o Options) (Result, error) {
	return b.collect(ctx, o, b.prompt(prompt), nil)
}

// Chat answers a conversation.
func (b *Backend) Chat(ctx context.Context, messages []mlx.Message, o Options) (Result, error) {
	return b.collect(ctx, o, b.chat(messages), nil)
}

// GenerateStream is Generate with every piece of text given to callback, whose error ends the work and is returned.
func (b *Backend) GenerateStream(ctx context.Context, prompt string, o Options, callback func(text string) error) error {
	_, err := b.collect(ctx, o, b.prompt(prompt), callback)
	return err
}

// ChatStream is Chat with every piece of text given to callback, whose error ends the work and is returned.
func (b *Backend) ChatStream(ctx context.Context, messages []mlx.Message, o Options, callback func(text string) error) error {
	_, err := b.collect(ctx, o, b.chat(messages), callback)
	return err
}

type start func(context.Context, ...mlx.GenerateOption) iter.Seq2[mlx.Token, error]

func (b *Backend) prompt(text string) start {
	return func(ctx context.Context, o ...mlx.GenerateOption) iter.Seq2[mlx.Token, error] {
		return b.model.Generate(ctx, text, o...)
	}
}

func (b *Backend) chat(messages []mlx.Message) start {
	return func(ctx context.Context, o ...mlx.GenerateOption) iter.Seq2[mlx.Token, error] {
		return b.model.Chat(ctx, messages, o...)
	}
}

func (b *Backend) collect(ctx context.Context, o Options, begin start, callback func(string) error) (Result, error) {
	if o.Model != "" && o.Model != b.name {
		return Result{}, fmt.Errorf("this backend serves %q, not %q", b.name, o.Model)
	}
	var r Result
	started := time.Now()
	for tok, err := range begin(ctx, o.options()...) {
		if err != nil {
			return r, err
		}
		if r.Metrics.GeneratedTokens == 0 {
			r.Metrics.FirstToken = time.Since(started)
		}
		r.Metrics.GeneratedTokens++
		r.Metrics.PromptTokens, r.Metrics.FinishReason = tok.PromptTokens, string(tok.FinishReason)
		r.Text += tok.Text
		if callback != nil && tok.Text != "" {
			if err := callback(tok.Text); err != nil {
				return r, err
			}
		}
	}
	r.Metrics.Total = time.Since(started)
	if r.Metrics.FinishReason == "" {
		return r, errors.New("the stream ended without a reason")
	}
	return r, nil
}

// options gives go-ai's options their names in mlx; mlx checks them.
func (o Options) options() []mlx.GenerateOption {
	sampling := []mlx.SamplingOption{mlx.TopK(o.TopK), mlx.StopTokens(o.StopTokens...)}
	if o.TopP != 0 {
		sampling = append(sampling, mlx.TopP(float32(o.TopP)))
	}
	if o.RepeatPenalty != 0 {
		sampling = append(sampling, mlx.RepetitionPenalty(float32(o.RepeatPenalty)))
	}
	out := []mlx.GenerateOption{mlx.WithTemperature(float32(o.Temperature)), mlx.WithStop(o.StopSequences...), mlx.WithSampling(sampling...)}
	if o.MaxTokens != 0 {
		out = append(out, mlx.WithMaxTokens(o.MaxTokens))
	}
	return out
}
