package openai

import (
	"context"
	"net/url"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// response is the answer; its fields are those that OpenAI's clients expect.
type response struct {
	ID                 string            `json:"id"`
	Object             string            `json:"object"`
	CreatedAt          int64             `json:"created_at"`
	CompletedAt        *int64            `json:"completed_at"`
	Status             string            `json:"status"`
	Error              *responseError    `json:"error"`
	IncompleteDetails  *incomplete       `json:"incomplete_details"`
	Instructions       *string           `json:"instructions"`
	MaxOutputTokens    *int              `json:"max_output_tokens"`
	Metadata           map[string]string `json:"metadata"`
	Model              string            `json:"model"`
	Output             []outputItem      `json:"output"`
	ParallelToolCalls  bool              `json:"parallel_tool_calls"`
	PreviousResponseID *string           `json:"previous_response_id"`
	Store              bool              `json:"store"`
	Temperature        *float32          `json:"temperature"`
	Text               responseText      `json:"text"`
	ToolChoice         string            `json:"tool_choice"`
	Tools              []answerTool      `json:"tools"`
	TopP               *float32          `json:"top_p"`
	Truncation         string            `json:"truncation"`
	Usage              *responseUsage    `json:"usage"`
}

// answerTool is a tool as it was offered.
type answerTool struct {
	Type        string `json:"type"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Parameters  any    `json:"parameters"`
	Strict      bool   `json:"strict"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type incomplete struct {
	Reason string `json:"reason"`
}

type responseUsage struct {
	InputTokens         int           `json:"input_tokens"`
	InputTokensDetails  inputDetails  `json:"input_tokens_details"`
	OutputTokens        int           `json:"output_tokens"`
	OutputTokensDetails outputDetails `json:"output_tokens_details"`
	TotalTokens         int           `json:"total_tokens"`
}

type inputDetails struct {
	CachedTokens     int `json:"cached_tokens"`
	CacheWriteTokens int `json:"cache_write_tokens"` // a prompt cache here costs nothing extra
}

type outputDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// outputItem is a thought, a message, or a call.
type outputItem struct {
	Type      string         `json:"type"`
	ID        string         `json:"id"`
	Status    string         `json:"status"`
	Role      string         `json:"role,omitzero"`
	Content   *[]contentPart `json:"content,omitzero"`
	Summary   *[]string      `json:"summary,omitzero"`
	CallID    string         `json:"call_id,omitzero"`
	Name      string         `json:"name,omitzero"`
	Arguments *string        `json:"arguments,omitzero"`
}

func (o outputItem) text() (text string) {
	if o.Content != nil {
		for _, p := range *o.Content {
			text += p.Text
		}
	}
	return text
}

func (o outputItem) call() mlx.ToolCall {
	return mlx.ToolCall{ID: o.CallID, Type: "function", Function: mlx.FunctionCall{Name: o.Name, Arguments: turn.WholeArguments(*o.Arguments)}}
}

type contentPart struct {
	Type        string    `json:"type"`
	Text        string    `json:"text"`
	Annotations *[]string `json:"annotations,omitzero"`
	LogProbs    *[]string `json:"logprobs,omitzero"`
}

// partOf is the part of a text or a thought.
func partOf(kind turn.EventKind, text string) contentPart {
	if kind == turn.Reasoning {
		return contentPart{Type: "reasoning_text", Text: text}
	}
	return contentPart{Type: "output_text", Text: text, Annotations: &[]string{}, LogProbs: &[]string{}}
}

func (q *ResponseRequest) skeleton(list turn.Tools) *response {
	orNil := func(text string) *string {
		if text == "" {
			return nil
		}
		return &text
	}
	mode := list.Mode
	if mode == "" {
		mode = turn.Auto
	}
	if q.Text.Format.Type == "" {
		q.Text.Format.Type = "text"
	}
	if q.Metadata == nil {
		q.Metadata = map[string]string{}
	}
	r := &response{
		ID: turn.NewID("resp_"), Object: "response", CreatedAt: time.Now().Unix(), Status: "in_progress", Instructions: orNil(q.Instructions),
		MaxOutputTokens: q.MaxOutputTokens.Int(), Metadata: q.Metadata, Model: q.Model, Output: []outputItem{}, ParallelToolCalls: !list.OneCall,
		PreviousResponseID: orNil(q.PreviousResponseID), Store: q.Store == nil || *q.Store, Temperature: q.Temperature, Text: q.Text,
		ToolChoice: string(mode), Tools: []answerTool{}, TopP: q.TopP, Truncation: "disabled",
	}
	for _, t := range list.List {
		tool := answerTool{Type: "function", Name: t.Name, Description: t.Description, Strict: t.Strict}
		if len(t.Parameters) > 0 {
			tool.Parameters = t.Parameters
		}
		r.Tools = append(r.Tools, tool)
	}
	return r
}

// AnswerWhole generates the answer in one piece.
func (q *ResponseRequest) AnswerWhole(ctx context.Context, t *turn.Turn) (any, error) {
	a := &responding{response: q.skeleton(t.Spec.Tools)}
	reply, err := t.RunBlocks(ctx, a)
	if err != nil {
		return nil, err
	}
	return a.response, q.finish(a, reply)
}

// AnswerStream sends the answer as it grows.
func (q *ResponseRequest) AnswerStream(ctx context.Context, t *turn.Turn, out turn.Sink) error {
	a := &responding{response: q.skeleton(t.Spec.Tools), out: out}
	q.live = a
	reply, err := t.RunBlocks(ctx, a)
	if err != nil {
		return err
	}
	return q.finish(a, reply)
}

// finish ends a response, and keeps it.
func (q *ResponseRequest) finish(a *responding, r turn.Reply) error {
	if err := a.begin(); err != nil {
		return err
	}
	a.Usage = &responseUsage{
		InputTokens: r.Prompt, InputTokensDetails: inputDetails{CachedTokens: r.Cached}, OutputTokens: r.Generated, OutputTokensDetails: outputDetails{r.Reasoning}, TotalTokens: r.Prompt + r.Generated,
	}
	now := time.Now().Unix()
	a.Status, a.CompletedAt = "completed", &now
	if r.Finish == mlx.FinishLength {
		a.Status, a.CompletedAt, a.IncompleteDetails = "incomplete", nil, &incomplete{"max_output_tokens"}
	}
	if a.Store {
		answer := mlx.Message{Role: "assistant", Content: r.Joined(turn.Text), Reasoning: r.Joined(turn.Reasoning)}
		for _, b := range r.Blocks {
			if b.Kind == turn.Call {
				answer.ToolCalls = append(answer.ToolCalls, b.Call)
			}
		}
		kept := *a.response // Fail changes the other one if its last event cannot be sent
		q.Responses.put(&storedResponse{response: &kept, input: q.inputItems(), added: q.added, changed: q.changed, conversation: append(q.conversation[:len(q.conversation):len(q.conversation)], answer)})
	}
	return a.snapshot("response." + a.Status)
}

// Fail ends a stream that has begun.
func (q *ResponseRequest) Fail(out turn.Sink, e *turn.Error) {
	a := q.live
	if a == nil { // it failed while the model was loading
		a = &responding{response: q.skeleton(turn.Tools{}), out: out}
	}
	a.Status, a.Error = "failed", &responseError{"server_error", e.Message}
	if e.Kind == turn.Invalid {
		a.Error.Code = e.Code
	}
	_ = a.snapshot("response.failed") // the client may be why
}

// StoredResponse is a response that is kept.
func (s *ResponseStore) StoredResponse(id string, query url.Values) (any, error) {
	if query.Get("stream") == "true" {
		return nil, turn.Bad("stream", "a response that is over is not streamed again; ask for it without stream")
	}
	stored, ok := s.get(id)
	if !ok {
		return nil, noResponse(id)
	}
	return stored.response, nil
}

// Delete forgets a response.
func (s *ResponseStore) Delete(id string, _ url.Values) (any, error) {
	if !s.remove(id) {
		return nil, noResponse(id)
	}
	return map[string]any{"id": id, "object": "response", "deleted": true}, nil
}

func noResponse(id string) error {
	return &turn.Error{Kind: turn.NotFound, Code: "response_not_found", Message: "there is no response " + id}
}
