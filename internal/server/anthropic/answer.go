package anthropic

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// usage are the tokens of an answer.
type usage struct {
	InputTokens   int `json:"input_tokens"` // without those that the prompt cache had
	OutputTokens  int `json:"output_tokens"`
	CacheCreation int `json:"cache_creation_input_tokens"`
	CacheRead     int `json:"cache_read_input_tokens"`
}

// answerBlock is a part of an answer.
type answerBlock struct {
	Type      string         `json:"type"`
	Text      *string        `json:"text,omitzero"`
	Thinking  *string        `json:"thinking,omitzero"`
	Signature *string        `json:"signature,omitzero"`
	ID        string         `json:"id,omitzero"`
	Name      string         `json:"name,omitzero"`
	Input     jsontext.Value `json:"input,omitzero"`
}

// blockOf is a block with its text; input is that of a call.
func blockOf(b *turn.Block, text string, input []byte) answerBlock {
	switch b.Kind {
	case turn.Reasoning:
		none := "" // nothing here needs to be signed
		return answerBlock{Type: "thinking", Thinking: &text, Signature: &none}
	case turn.Call:
		return answerBlock{Type: "tool_use", ID: b.Call.ID, Name: b.Call.Function.Name, Input: input}
	}
	return answerBlock{Type: "text", Text: &text}
}

type answer struct {
	ID           string        `json:"id"`
	Type         string        `json:"type"`
	Role         string        `json:"role"`
	Model        string        `json:"model"`
	Content      []answerBlock `json:"content"`
	StopReason   *string       `json:"stop_reason"`
	StopSequence *string       `json:"stop_sequence"`
	Usage        usage         `json:"usage"`
}

func (q *Request) skeleton() *answer {
	return &answer{ID: turn.NewID("msg_"), Type: "message", Role: "assistant", Model: q.Model, Content: []answerBlock{}}
}

func (a *answer) end(o turn.Outcome) {
	reason := "end_turn"
	switch {
	case o.Finish == mlx.FinishLength:
		reason = "max_tokens"
	case o.Calls > 0:
		reason = "tool_use"
	case o.StopString != "":
		reason = "stop_sequence"
		a.StopSequence = &o.StopString
	}
	a.StopReason = &reason
	a.Usage = usage{InputTokens: o.Prompt - o.Cached, OutputTokens: o.Generated, CacheRead: o.Cached}
}

// AnswerWhole generates the answer in one piece, or counts the tokens of its prompt.
func (q *Request) AnswerWhole(ctx context.Context, t *turn.Turn) (any, error) {
	if q.Counting {
		n, err := t.CountPrompt(ctx)
		return map[string]int{"input_tokens": n}, err
	}
	a := q.skeleton()
	reply, err := t.RunBlocks(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, b := range reply.Blocks {
		a.Content = append(a.Content, blockOf(b, b.Text, b.Call.Function.Arguments))
	}
	a.end(reply.Outcome)
	return a, nil
}

// event is one of a stream; which fields it has depends on its type.
type event struct {
	Type    string       `json:"type"`
	Message *answer      `json:"message,omitzero"`
	Index   *int         `json:"index,omitzero"`
	Block   *answerBlock `json:"content_block,omitzero"`
	Delta   any          `json:"delta,omitzero"`
	Usage   *usage       `json:"usage,omitzero"`
}

type textDelta struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type thinkingDelta struct {
	Type     string `json:"type"`
	Thinking string `json:"thinking"`
}

type inputDelta struct {
	Type        string `json:"type"`
	PartialJSON string `json:"partial_json"`
}

type stopDelta struct {
	StopReason   *string `json:"stop_reason"`
	StopSequence *string `json:"stop_sequence"`
}

// streaming sends an answer as blocks, one after the other.
type streaming struct {
	answer *answer
	out    turn.Sink
	begun  bool
}

func (s *streaming) send(e event) error { return s.out.Send(e.Type, e) }

func (s *streaming) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	return s.send(event{Type: "message_start", Message: s.answer})
}

// Open begins a block.
func (s *streaming) Open(i int, b *turn.Block) error {
	if err := s.begin(); err != nil {
		return err
	}
	block := blockOf(b, "", []byte("{}"))
	return s.send(event{Type: "content_block_start", Index: &i, Block: &block})
}

// Grow adds to a block.
func (s *streaming) Grow(i int, b *turn.Block, e turn.Event) error {
	var delta any = textDelta{"text_delta", e.Text}
	switch b.Kind {
	case turn.Reasoning:
		delta = thinkingDelta{"thinking_delta", e.Text}
	case turn.Call:
		delta = inputDelta{"input_json_delta", e.Text}
	}
	return s.send(event{Type: "content_block_delta", Index: &i, Delta: delta})
}

// Close ends a block.
func (s *streaming) Close(i int, _ *turn.Block) error {
	return s.send(event{Type: "content_block_stop", Index: &i})
}

// AnswerStream sends the answer as it grows.
func (q *Request) AnswerStream(ctx context.Context, t *turn.Turn, out turn.Sink) error {
	s := &streaming{answer: q.skeleton(), out: out}
	var err error
	if s.answer.Usage.InputTokens, err = t.CountPrompt(ctx); err != nil {
		return err
	}
	reply, err := t.RunBlocks(ctx, s)
	if err == nil {
		err = s.begin()
	}
	if err != nil {
		return err
	}
	s.answer.end(reply.Outcome)
	return errors.Join(
		s.send(event{Type: "message_delta", Delta: stopDelta{s.answer.StopReason, s.answer.StopSequence}, Usage: &s.answer.Usage}),
		s.send(event{Type: "message_stop"}),
	)
}

// Fail ends a stream that has begun.
func (q *Request) Fail(out turn.Sink, e *turn.Error) { _ = out.Send("error", ErrorBody(e)) } // the client may be why

// ErrorBody is an error as Anthropic's clients expect it.
func ErrorBody(e *turn.Error) any {
	message := e.Message
	if e.Limit > 0 { // the words that clients look for
		message = fmt.Sprintf("prompt is too long: %d tokens > %d maximum", e.Tokens, e.Limit-1)
	}
	type body struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	return struct {
		Type  string `json:"type"`
		Error body   `json:"error"`
	}{"error", body{e.Kind.Anthropic(), message}}
}
