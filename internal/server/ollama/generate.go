package ollama

import (
	"context"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// GenerateRequest is the body of /api/generate; GenerateFields has what becomes of its fields.
type GenerateRequest struct {
	common
	Prompt string `json:"prompt"`
	System string `json:"system"`
	Raw    bool   `json:"raw"` // without the chat template
}

type generateAnswer struct {
	Model     string    `json:"model"`
	CreatedAt time.Time `json:"created_at"`
	Response  string    `json:"response"`
	Thinking  string    `json:"thinking,omitzero"`
	figures
}

// Loads says that the request only wants the model loaded.
func (q *GenerateRequest) Loads() bool { return q.Prompt == "" }

// Named are the API's names of the fields that set options.
func (q *GenerateRequest) Named() turn.Names {
	names := q.common.Named()
	names["Prompt"] = "prompt"
	return names
}

// Spec is the request in the form that all APIs share.
func (q *GenerateRequest) Spec() (*turn.Spec, error) {
	q.start = time.Now()
	w := q.spec()
	w.Names = q.Named()
	if q.Raw {
		w.Prompts = turn.Prompts{{Text: q.Prompt}}
		return w, nil
	}
	if q.System != "" {
		w.Messages = append(w.Messages, mlx.Message{Role: "system", Content: q.System})
	}
	w.Messages = append(w.Messages, mlx.Message{Role: "user", Content: q.Prompt})
	return w, nil
}

func (q *GenerateRequest) answer(e turn.Event) generateAnswer {
	a := generateAnswer{Model: q.Model, CreatedAt: time.Now().UTC()}
	if e.Kind == turn.Reasoning {
		a.Thinking = e.Text
	} else {
		a.Response = e.Text
	}
	return a
}

// Loaded is the answer to a request that only wants the model loaded, or unloaded.
func (q *GenerateRequest) Loaded() any {
	a := q.answer(turn.Event{})
	a.figures = figures{Done: true, DoneReason: q.loadReason()}
	return a
}

// AnswerWhole generates the answer in one piece.
func (q *GenerateRequest) AnswerWhole(ctx context.Context, t *turn.Turn) (any, error) {
	whole := q.answer(turn.Event{})
	f, err := q.run(ctx, t.For(0, 0), func(e turn.Event) error {
		piece := q.answer(e)
		whole.Response += piece.Response
		whole.Thinking += piece.Thinking
		return nil
	})
	whole.figures = f
	return whole, err
}

// AnswerStream sends the answer as it grows.
func (q *GenerateRequest) AnswerStream(ctx context.Context, t *turn.Turn, out turn.Sink) error {
	f, err := q.run(ctx, t.For(0, 0), func(e turn.Event) error { return out.Send("", q.answer(e)) })
	if err != nil {
		return err
	}
	a := q.answer(turn.Event{})
	a.figures = f
	return out.Send("", a)
}

// EmbedRequest is the body of /api/embed; EmbedFields has what becomes of its fields.
type EmbedRequest struct {
	Model      string       `json:"model"`
	Input      turn.Strings `json:"input"`
	Dimensions turn.Count   `json:"dimensions"`
}

type embedAnswer struct {
	Model           string      `json:"model"`
	Embeddings      [][]float32 `json:"embeddings"`
	TotalDuration   int64       `json:"total_duration"`
	PromptEvalCount int         `json:"prompt_eval_count"`
}

// ModelName is the model that the request names.
func (q *EmbedRequest) ModelName() string { return modelName(q.Model) }

// Check finds what is wrong with the request, before a model is loaded for it.
func (q *EmbedRequest) Check() error {
	return turn.AtMost("input", len(q.Input), turn.MaxEmbeddings, "texts")
}

// Answer embeds the texts.
func (q *EmbedRequest) Answer(ctx context.Context, m mlx.TextModel) (any, int, error) {
	start := time.Now()
	a := embedAnswer{Model: q.Model, Embeddings: [][]float32{}}
	if len(q.Input) == 0 { // loads the model
		return a, 0, nil
	}
	var in turn.Prompts
	for _, text := range q.Input {
		in = append(in, turn.Prompt{Text: text})
	}
	e := turn.Embedding{Input: in, Field: "input", Dimensions: int(q.Dimensions)}
	var tokens int
	var err error
	if a.Embeddings, tokens, err = e.Vectors(ctx, m); err != nil {
		return nil, 0, err
	}
	a.PromptEvalCount, a.TotalDuration = tokens, int64(time.Since(start))
	return a, tokens, nil
}

// modelName is a name without the tag that Ollama's clients add.
func modelName(name string) string { return strings.TrimSuffix(name, ":latest") }
