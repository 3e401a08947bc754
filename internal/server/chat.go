package server

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
)

// maxChoices is how many answers one request may ask for.
const maxChoices = 16

func choicesOf(n *int) (int, error) {
	if n == nil {
		return 1, nil
	}
	if *n < 1 || *n > maxChoices {
		return 0, badField("n", "%d is not between 1 and %d", *n, maxChoices)
	}
	return *n, nil
}

// chatTurn prepares the answer to a request.
func (s *Server) chatTurn(w http.ResponseWriter, r *http.Request, q *chatRequest) (*turn, error) {
	messages, err := messagesOf(q.Messages)
	if err != nil {
		return nil, err
	}
	given := make([]responseTool, len(q.Tools))
	for i, t := range q.Tools {
		given[i] = responseTool{t.Type, t.Function}
	}
	list, err := toolsOf(given, q.ToolChoice, q.ParallelToolCalls)
	if err != nil {
		return nil, err
	}
	format, err := jsonFormat{q.ResponseFormat.Type, q.ResponseFormat.JSONSchema.Schema}.option("response_format")
	if err != nil {
		return nil, err
	}
	if q.TopLogProbs != nil && !q.LogProbs {
		return nil, badField("top_logprobs", "goes with logprobs")
	}
	lease, err := s.acquire(w, r, q.Model)
	if err != nil {
		return nil, err
	}
	t, err := s.prepare(lease, wish{
		messages: messages, tools: list, format: format, formatField: "response_format", sampling: &q.sampling,
		arguments: q.ChatTemplateKwargs, effort: q.ReasoningEffort, effortField: "reasoning_effort",
	})
	if err != nil {
		lease.Release()
		return nil, err
	}
	t.options = append(t.options, s.maxTokens(q.MaxCompletionTokens, q.MaxTokens))
	if len(q.Stop) > 0 {
		t.options = append(t.options, mlx.WithStop(q.Stop...))
	}
	if q.PromptCacheKey != "" {
		t.options = append(t.options, mlx.WithSession(q.PromptCacheKey))
	}
	if t.logProbs = q.LogProbs; t.logProbs {
		t.options = append(t.options, mlx.WithLogProbs())
		if q.TopLogProbs != nil {
			t.options = append(t.options, mlx.WithTopLogProbs(*q.TopLogProbs))
		}
	}
	return t, nil
}

type usage struct {
	PromptTokens            int               `json:"prompt_tokens"`
	CompletionTokens        int               `json:"completion_tokens"`
	TotalTokens             int               `json:"total_tokens"`
	CompletionTokensDetails completionDetails `json:"completion_tokens_details"`
}

type completionDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// add counts another answer to the same prompt.
func (u *usage) add(o outcome) {
	u.PromptTokens = max(u.PromptTokens, o.prompt)
	u.CompletionTokens += o.generated
	u.CompletionTokensDetails.ReasoningTokens += o.reasoning
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
}

type chatCompletion struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []chatChoice `json:"choices"`
	Usage   *usage       `json:"usage,omitempty"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      *chatAnswer   `json:"message,omitempty"`
	Delta        *chatDelta    `json:"delta,omitempty"`
	LogProbs     *chatLogProbs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type chatAnswer struct {
	Role             string     `json:"role"`
	Content          *string    `json:"content"`
	ReasoningContent string     `json:"reasoning_content,omitempty"`
	Refusal          *string    `json:"refusal"`
	ToolCalls        []chatCall `json:"tool_calls,omitempty"`
}

type chatDelta struct {
	Role             string     `json:"role,omitempty"`
	Content          *string    `json:"content,omitempty"`
	ReasoningContent string     `json:"reasoning_content,omitempty"`
	ToolCalls        []chatCall `json:"tool_calls,omitempty"`
}

type chatLogProbs struct {
	Content []tokenLogProb `json:"content"`
	Refusal []tokenLogProb `json:"refusal"`
}

func finishOf(o outcome) *string {
	reason := string(o.finish)
	if o.calls > 0 && o.finish == mlx.FinishStop {
		reason = "tool_calls"
	}
	return &reason
}

func callOf(c mlx.ToolCall) chatCall {
	return chatCall{ID: c.ID, Type: "function", Function: chatCallFunction{c.Function.Name, string(c.Function.Arguments)}}
}

func (s *Server) chatCompletions(w http.ResponseWriter, r *http.Request) error {
	var q chatRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	n, err := choicesOf(q.N)
	if err != nil {
		return err
	}
	switch {
	case q.StreamOptions != nil && !q.Stream:
		return badField("stream_options", "goes with stream")
	case q.Store != nil && *q.Store:
		return badField("store", "this server keeps no chats; the responses API keeps its own")
	case len(q.Modalities) > 0 && !slices.Equal(q.Modalities, []string{"text"}):
		return badField("modalities", "there is text only")
	}
	t, err := s.chatTurn(w, r, &q)
	if err != nil {
		return err
	}
	defer t.lease.Release()
	c := chatCompletion{ID: newID("chatcmpl-"), Object: "chat.completion", Created: time.Now().Unix(), Model: q.Model}
	if q.Stream {
		return s.streamChat(w, r, &q, t, n, c)
	}
	c.Choices, c.Usage = make([]chatChoice, n), &usage{}
	texts := &tokenTexts{tokenizer: t.lease.Model.Tokenizer()}
	var mu sync.Mutex
	err = s.eachChoice(r.Context(), t, &q.sampling, n, func(ctx context.Context, i int, t *turn) error {
		reply, err := s.collect(ctx, t)
		if err != nil {
			return err
		}
		answer := &chatAnswer{Role: "assistant", Content: &reply.text, ReasoningContent: reply.reasoning}
		for _, call := range reply.calls {
			answer.ToolCalls = append(answer.ToolCalls, callOf(call))
		}
		if len(reply.calls) > 0 && reply.text == "" {
			answer.Content = nil
		}
		choice := chatChoice{Index: i, Message: answer, FinishReason: finishOf(reply.outcome)}
		if t.logProbs {
			described, err := texts.describe(ctx, reply.tokens, q.TopLogProbs != nil)
			if err != nil {
				return err
			}
			choice.LogProbs = &chatLogProbs{Content: described}
		}
		mu.Lock()
		defer mu.Unlock()
		c.Choices[i] = choice
		c.Usage.add(reply.outcome)
		return nil
	})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, c)
	return nil
}

// eachChoice generates several answers to one prompt side by side.
func (s *Server) eachChoice(ctx context.Context, t *turn, p *sampling, n int, do func(ctx context.Context, i int, t *turn) error) error {
	if n == 1 {
		return do(ctx, 0, t)
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		own := *t
		own.options = append(t.options[:len(t.options):len(t.options)], p.seedFor(i)...)
		group.Go(func() error { return do(ctx, i, &own) })
	}
	return group.Wait()
}

func (s *Server) streamChat(w http.ResponseWriter, r *http.Request, q *chatRequest, t *turn, n int, c chatCompletion) error {
	out := s.newSSE(w)
	defer out.close()
	c.Object = "chat.completion.chunk"
	texts := &tokenTexts{tokenizer: t.lease.Model.Tokenizer()}
	send := func(choice chatChoice) error {
		chunk := c
		chunk.Choices = []chatChoice{choice}
		return out.send("", chunk)
	}
	var total usage
	var mu sync.Mutex
	err := s.eachChoice(r.Context(), t, &q.sampling, n, func(ctx context.Context, i int, t *turn) error {
		begun, calls := false, 0
		begin := func() error {
			if begun {
				return nil
			}
			begun = true
			empty := ""
			return send(chatChoice{Index: i, Delta: &chatDelta{Role: "assistant", Content: &empty}})
		}
		o, err := s.run(ctx, t, func(e event) error {
			if err := begin(); err != nil {
				return err
			}
			choice := chatChoice{Index: i, Delta: &chatDelta{}}
			switch e.kind {
			case eventText:
				choice.Delta.Content = &e.text
			case eventReasoning:
				choice.Delta.ReasoningContent = e.text
			case eventCall:
				call, index := callOf(e.call), calls
				call.Index = &index
				choice.Delta.ToolCalls = []chatCall{call}
				calls++
			}
			if t.logProbs {
				described, err := texts.describe(ctx, e.tokens, q.TopLogProbs != nil)
				if err != nil {
					return err
				}
				choice.LogProbs = &chatLogProbs{Content: described}
			}
			return send(choice)
		})
		if err != nil {
			return err
		}
		mu.Lock()
		total.add(o)
		mu.Unlock()
		if err := begin(); err != nil {
			return err
		}
		return send(chatChoice{Index: i, Delta: &chatDelta{}, FinishReason: finishOf(o)})
	})
	if err != nil {
		return s.failStream(r, out, openAI, err)
	}
	if q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		c.Choices, c.Usage = []chatChoice{}, &total
		if err := out.send("", c); err != nil {
			return s.failStream(r, out, openAI, err)
		}
	}
	out.done()
	return nil
}

// failStream tells the client of an error in a stream that has begun; before that the error is returned to have a status.
func (s *Server) failStream(r *http.Request, out *sse, d dialect, err error) error {
	if !out.started() {
		return err
	}
	name := ""
	if d == anthropic {
		name = "error"
	}
	_ = out.send(name, d.body(broken(r, err))) // the client may be why
	return nil
}

// broken notes why a stream that has begun breaks off, and says it for the client.
func broken(r *http.Request, err error) *apiError {
	if ctx := r.Context(); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	visitOf(r.Context()).err = err
	return explain(err)
}
