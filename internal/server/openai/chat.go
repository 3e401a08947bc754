package openai

import (
	"context"
	"sync"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

type usage struct {
	PromptTokens            int               `json:"prompt_tokens"`
	PromptTokensDetails     inputDetails      `json:"prompt_tokens_details"`
	CompletionTokens        int               `json:"completion_tokens"`
	TotalTokens             int               `json:"total_tokens"`
	CompletionTokensDetails completionDetails `json:"completion_tokens_details"`
}

type completionDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// add counts another answer to the same prompt.
func (u *usage) add(o turn.Outcome) {
	u.PromptTokens = max(u.PromptTokens, o.Prompt)
	u.PromptTokensDetails.CachedTokens = max(u.PromptTokensDetails.CachedTokens, o.Cached)
	u.CompletionTokens += o.Generated
	u.CompletionTokensDetails.ReasoningTokens += o.Reasoning
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
}

type chatCompletion struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []chatChoice `json:"choices"`
	Usage   *usage       `json:"usage,omitzero"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      *chatAnswer   `json:"message,omitzero"`
	Delta        *chatDelta    `json:"delta,omitzero"`
	LogProbs     *chatLogProbs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type chatAnswer struct {
	Role             string     `json:"role"`
	Content          *string    `json:"content"`
	ReasoningContent string     `json:"reasoning_content,omitzero"`
	Refusal          *string    `json:"refusal"`
	ToolCalls        []chatCall `json:"tool_calls,omitzero"`
}

type chatDelta struct {
	Role             string     `json:"role,omitzero"`
	Content          *string    `json:"content,omitzero"`
	ReasoningContent string     `json:"reasoning_content,omitzero"`
	ToolCalls        []chatCall `json:"tool_calls,omitzero"`
}

type chatCall struct {
	ID       string       `json:"id,omitzero"`
	Type     string       `json:"type,omitzero"`
	Index    *int         `json:"index,omitzero"`
	Function callFunction `json:"function"`
}

func finishOf(o turn.Outcome) *string {
	reason := string(o.Finish)
	if o.Calls > 0 && o.Finish == mlx.FinishStop {
		reason = "tool_calls"
	}
	return &reason
}

func callOf(c mlx.ToolCall, arguments string) chatCall {
	return chatCall{ID: c.ID, Type: "function", Function: callFunction{c.Function.Name, jsonString(arguments)}}
}

func (q *ChatRequest) skeleton(object string) chatCompletion {
	return chatCompletion{ID: turn.NewID("chatcmpl-"), Object: object, Created: time.Now().Unix(), Model: q.Model}
}

// AnswerWhole generates the answer in one piece.
func (q *ChatRequest) AnswerWhole(ctx context.Context, t *turn.Turn) (any, error) {
	n := max(1, t.Spec.Choices)
	c := q.skeleton("chat.completion")
	c.Choices, c.Usage = make([]chatChoice, n), &usage{}
	texts := &turn.TokenTexts{Tokenizer: t.Model.Tokenizer()}
	var mu sync.Mutex // guards c
	err := turn.Each(ctx, n, func(ctx context.Context, i int) error {
		reply, err := t.For(0, i).RunBlocks(ctx, nil)
		if err != nil {
			return err
		}
		text := reply.Joined(turn.Text)
		answer := &chatAnswer{Role: "assistant", Content: &text, ReasoningContent: reply.Joined(turn.Reasoning)}
		logProbs := &chatLogProbs{Content: []tokenLogProb{}}
		for _, b := range reply.Blocks {
			if b.Kind == turn.Call {
				answer.ToolCalls = append(answer.ToolCalls, callOf(b.Call, b.Text))
			}
			described, err := describe(ctx, texts, b.Tokens)
			if err != nil {
				return err
			}
			logProbs.Content = append(logProbs.Content, described...)
		}
		if len(answer.ToolCalls) > 0 && text == "" {
			answer.Content = nil
		}
		choice := chatChoice{Index: i, Message: answer, FinishReason: finishOf(reply.Outcome)}
		if q.LogProbs {
			choice.LogProbs = logProbs
		}
		mu.Lock()
		defer mu.Unlock()
		c.Choices[i] = choice
		c.Usage.add(reply.Outcome)
		return nil
	})
	return c, err
}

// AnswerStream sends the answers as they grow.
func (q *ChatRequest) AnswerStream(ctx context.Context, t *turn.Turn, out turn.Sink) error {
	c := q.skeleton("chat.completion.chunk")
	texts := &turn.TokenTexts{Tokenizer: t.Model.Tokenizer()}
	var total usage
	var mu sync.Mutex // guards total
	err := turn.Each(ctx, max(1, t.Spec.Choices), func(ctx context.Context, i int) error {
		s := &chatStream{request: q, chunk: c, index: i, texts: texts, out: out}
		o, err := t.For(0, i).Run(ctx, func(e turn.Event) error { return s.add(ctx, e) })
		if err != nil {
			return err
		}
		mu.Lock()
		total.add(o)
		mu.Unlock()
		return s.end(o)
	})
	if err != nil {
		return err
	}
	if q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		c.Choices, c.Usage = []chatChoice{}, &total
		if err := out.Send("", c); err != nil {
			return err
		}
	}
	out.Done()
	return nil
}

// chatStream is one of the answers of a stream.
type chatStream struct {
	request *ChatRequest
	chunk   chatCompletion
	index   int
	texts   *turn.TokenTexts
	out     turn.Sink
	begun   bool
	calls   int
}

func (s *chatStream) send(choice chatChoice) error {
	choice.Index = s.index
	chunk := s.chunk
	chunk.Choices = []chatChoice{choice}
	return s.out.Send("", chunk)
}

// begin sends the role of the answer, once.
func (s *chatStream) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	empty := ""
	return s.send(chatChoice{Delta: &chatDelta{Role: "assistant", Content: &empty}})
}

func (s *chatStream) add(ctx context.Context, e turn.Event) error {
	if err := s.begin(); err != nil {
		return err
	}
	choice := chatChoice{Delta: &chatDelta{}}
	switch e.Kind {
	case turn.Text:
		choice.Delta.Content = &e.Text
	case turn.Reasoning:
		choice.Delta.ReasoningContent = e.Text
	case turn.Call:
		call, index := callOf(e.Call, ""), s.calls
		call.Index = &index
		choice.Delta.ToolCalls = []chatCall{call}
		s.calls++
	case turn.Arguments:
		index := s.calls - 1
		choice.Delta.ToolCalls = []chatCall{{Index: &index, Function: callFunction{Arguments: jsonString(e.Text)}}}
	}
	if s.request.LogProbs && e.Kind == turn.Text {
		described, err := describe(ctx, s.texts, e.Tokens)
		if err != nil {
			return err
		}
		choice.LogProbs = &chatLogProbs{Content: described}
	}
	return s.send(choice)
}

func (s *chatStream) end(o turn.Outcome) error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.send(chatChoice{Delta: &chatDelta{}, FinishReason: finishOf(o)})
}

// Fail ends a stream that has begun.
func (q *ChatRequest) Fail(out turn.Sink, e *turn.Error) { fail(out, e) }

func fail(out turn.Sink, e *turn.Error) { _ = out.Send("", ErrorBody(e)) } // the client may be why
