package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// chatRequest is the body of /v1/chat/completions. Fields that change nothing here (user, metadata, ...) are taken for
// what they are; fields that would change something and cannot are not there, so that they are refused.
type chatRequest struct {
	sampling
	Model               string         `json:"model"`
	Messages            []chatMessage  `json:"messages"`
	Stream              bool           `json:"stream"`
	StreamOptions       *streamOptions `json:"stream_options"`
	MaxTokens           *int           `json:"max_tokens"`
	MaxCompletionTokens *int           `json:"max_completion_tokens"`
	N                   *int           `json:"n"`
	Stop                oneOrMany      `json:"stop"`
	LogProbs            bool           `json:"logprobs"`
	TopLogProbs         *int           `json:"top_logprobs"`
	Tools               []chatTool     `json:"tools"`
	ToolChoice          chatToolChoice `json:"tool_choice"`
	ParallelToolCalls   *bool          `json:"parallel_tool_calls"`
	ResponseFormat      chatFormat     `json:"response_format"`
	ReasoningEffort     *string        `json:"reasoning_effort"`
	PromptCacheKey      string         `json:"prompt_cache_key"`
	Modalities          []string       `json:"modalities"`
	Store               *bool          `json:"store"`
	ServiceTier         serviceTier    `json:"service_tier"`
	labels

	ChatTemplateKwargs map[string]any `json:"chat_template_kwargs"` // as in mlx_lm.server
}

// labels are fields that name a request and change nothing.
type labels struct {
	User             string            `json:"user"`
	SafetyIdentifier string            `json:"safety_identifier"`
	Metadata         map[string]string `json:"metadata"`
}

// serviceTier is the only one that there is, by its names.
type serviceTier string

func (t *serviceTier) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var name *string
	if err := jsonv2.UnmarshalDecode(d, &name); err != nil || name == nil {
		return err
	}
	switch *name {
	case "auto", "default", "standard_only":
		*t = serviceTier(*name)
		return nil
	}
	return errors.New("this server has one tier: auto")
}

type streamOptions struct {
	IncludeUsage       bool  `json:"include_usage"`
	IncludeObfuscation *bool `json:"include_obfuscation"`
}

type chatMessage struct {
	Role             string     `json:"role"`
	Content          textParts  `json:"content"`
	Name             string     `json:"name"`
	ToolCallID       string     `json:"tool_call_id"`
	ToolCalls        []chatCall `json:"tool_calls"`
	ReasoningContent string     `json:"reasoning_content"`
	Refusal          *string    `json:"refusal"`
}

// textParts is a text, null, or a list of text parts, which are joined.
type textParts string

func (t *textParts) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '[' {
		var text *string
		if err := jsonv2.UnmarshalDecode(d, &text); err != nil {
			return err
		}
		if text != nil {
			*t = textParts(*text)
		}
		return nil
	}
	var parts []textPart
	if err := jsonv2.UnmarshalDecode(d, &parts); err != nil {
		return err
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	*t = textParts(b.String())
	return nil
}

type textPart struct {
	Type partType `json:"type"`
	Text string   `json:"text"`
	// What is about caching and quoting changes no token.
	CacheControl jsontext.Value `json:"cache_control"`
	Annotations  jsontext.Value `json:"annotations"`
	LogProbs     jsontext.Value `json:"logprobs"`
}

// partType is one of the names for a part of text.
type partType string

func (p *partType) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var name string
	if err := jsonv2.UnmarshalDecode(d, &name); err != nil {
		return err
	}
	switch name {
	case "text", "input_text", "output_text":
		*p = partType(name)
		return nil
	}
	return errors.New("this server takes parts of text only, not " + name)
}

type chatCall struct {
	ID       string           `json:"id"`
	Type     string           `json:"type"`
	Index    *int             `json:"index,omitempty"`
	Function chatCallFunction `json:"function"`
}

type chatCallFunction struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // JSON
}

type chatTool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string         `json:"name"`
		Description string         `json:"description"`
		Parameters  jsontext.Value `json:"parameters"`
		Strict      *bool          `json:"strict"`
	} `json:"function"`
}

// chatToolChoice is "none", "auto", "required" or a function.
type chatToolChoice struct {
	mode choiceMode
	name string
}

func (c *chatToolChoice) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		var mode *string
		if err := jsonv2.UnmarshalDecode(d, &mode); err != nil || mode == nil {
			return err
		}
		switch c.mode = choiceMode(*mode); c.mode {
		case choiceAuto, choiceNone, choiceRequired:
			return nil
		}
		return errors.New("there are none, auto, required and a function")
	}
	var named struct {
		Type     string `json:"type"`
		Name     string `json:"name"` // in the responses API
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if err := jsonv2.UnmarshalDecode(d, &named); err != nil {
		return err
	}
	if named.Type != "function" {
		return errors.New("only functions can be chosen")
	}
	c.mode, c.name = choiceRequired, named.Name+named.Function.Name
	return nil
}

type chatFormat struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Name        string         `json:"name"`
		Description string         `json:"description"`
		Schema      jsontext.Value `json:"schema"`
		Strict      *bool          `json:"strict"`
	} `json:"json_schema"`
}

// messagesOf gives the messages their form for the engines.
func messagesOf(in []chatMessage) ([]mlx.Message, error) {
	if len(in) == 0 {
		return nil, badField("messages", "there are none")
	}
	var out []mlx.Message
	for i, m := range in {
		role := m.Role
		switch role {
		case "developer":
			role = "system"
		case "system", "user", "assistant", "tool":
		default:
			return nil, wrongRole(atIndex("messages", i, "role"), m.Role)
		}
		message := mlx.Message{Role: role, Content: string(m.Content), Name: m.Name, ToolCallID: m.ToolCallID, Reasoning: m.ReasoningContent}
		for k, call := range m.ToolCalls {
			arguments := json.RawMessage(call.Function.Arguments)
			if len(arguments) == 0 {
				arguments = json.RawMessage("{}")
			}
			if !json.Valid(arguments) {
				return nil, badField(atIndex(atIndex("messages", i, "tool_calls"), k, "function.arguments"), "not JSON")
			}
			message.ToolCalls = append(message.ToolCalls, mlx.ToolCall{ID: call.ID, Type: "function", Function: mlx.FunctionCall{Name: call.Function.Name, Arguments: arguments}})
		}
		out = append(out, message)
	}
	return out, nil
}

// maxChoices is how many answers one request may ask for.
const maxChoices = 16

func (q *chatRequest) choices() (int, error) {
	if q.N == nil {
		return 1, nil
	}
	if *q.N < 1 || *q.N > maxChoices {
		return 0, badField("n", "%d is not between 1 and %d", *q.N, maxChoices)
	}
	return *q.N, nil
}

// thinkingFor says whether the model may think: OpenAI's reasoning_effort knows degrees, which most models do not.
func thinkingFor(field string, effort *string, template string, arguments map[string]any) (*bool, map[string]any, error) {
	if effort == nil {
		return nil, arguments, nil
	}
	if strings.Contains(template, "reasoning_effort") {
		merged := map[string]any{"reasoning_effort": *effort}
		for name, value := range arguments {
			merged[name] = value
		}
		return nil, merged, nil
	}
	if *effort != "none" {
		return nil, nil, badField(field, "the model knows no degrees of effort; leave the field out, or say none")
	}
	if !strings.Contains(template, "enable_thinking") {
		return nil, nil, badField(field, "the model's chat template has no switch for reasoning")
	}
	off := false
	return &off, arguments, nil
}

// turn prepares the answer to a request.
func (s *Server) chatTurn(w http.ResponseWriter, r *http.Request, q *chatRequest) (*turn, error) {
	messages, err := messagesOf(q.Messages)
	if err != nil {
		return nil, err
	}
	list := tools{mode: q.ToolChoice.mode, name: q.ToolChoice.name, oneCall: q.ParallelToolCalls != nil && !*q.ParallelToolCalls}
	for i, t := range q.Tools {
		if t.Type != "function" {
			return nil, badField(atIndex("tools", i, "type"), "%q; there are functions only", t.Type)
		}
		f := t.Function
		list.list = append(list.list, tool{f.Name, f.Description, json.RawMessage(f.Parameters), f.Strict != nil && *f.Strict})
	}
	if err := list.check(); err != nil {
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
	t, err := s.prepare(lease, messages, list, format, "response_format", &q.sampling, q.ChatTemplateKwargs, "reasoning_effort", q.ReasoningEffort)
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

// prepare makes a turn of what all chat APIs have in common; the format's options and fields go by the API's name for it.
func (s *Server) prepare(l *registry.Lease, messages []mlx.Message, list tools, format []mlx.GenerateOption, formatField string, p *sampling, arguments map[string]any, effortField string, effort *string) (*turn, error) {
	t, err := newTurn(l, messages)
	if err != nil {
		return nil, err
	}
	t.tools = list
	switch {
	case len(format) > 0 && list.mode == choiceRequired:
		return nil, badField(formatField, "does not go with a required tool call")
	case len(format) > 0 && len(list.list) > 0 && list.mode != choiceNone:
		return nil, badField(formatField, "does not go with tools, whose calls are no such text; set tool_choice to none")
	}
	t.format = len(format) > 0
	thinking, arguments, err := thinkingFor(effortField, effort, t.template, arguments)
	if err != nil {
		return nil, err
	}
	t.thinking = thinking
	if t.options, err = t.templateOptions(arguments); err != nil {
		return nil, err
	}
	defaults, err := s.defaults.of(l.Path)
	if err != nil {
		return nil, err
	}
	drawing, err := p.options(defaults)
	if err != nil {
		return nil, err
	}
	t.options = append(append(t.options, drawing...), format...)
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
	n, err := q.choices()
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
	_ = out.sendRaw("", []byte("[DONE]")) // who is gone by now misses nothing
	return nil
}

// failStream tells the client of an error in a stream that has begun; before that the error is returned to have a status.
func (s *Server) failStream(r *http.Request, out *sse, d dialect, err error) error {
	if !out.started() {
		return err
	}
	if ctx := r.Context(); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	visitOf(r.Context()).err = err
	name := ""
	if d == anthropic {
		name = "error"
	}
	_ = out.send(name, d.body(explain(err))) // the client may be why
	return nil
}
