package server

import (
	"encoding/json"
	"errors"
	"net/http"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// messagesRequest is the body of Anthropic's /v1/messages.
type messagesRequest struct {
	Model         string             `json:"model"`
	Messages      []anthropicMessage `json:"messages"`
	System        textParts          `json:"system"`
	MaxTokens     *int               `json:"max_tokens"`
	StopSequences []string           `json:"stop_sequences"`
	Stream        bool               `json:"stream"`
	Temperature   *float32           `json:"temperature"`
	TopP          *float32           `json:"top_p"`
	TopK          *int               `json:"top_k"`
	Tools         []anthropicTool    `json:"tools"`
	ToolChoice    *anthropicChoice   `json:"tool_choice"`
	Thinking      *anthropicThinking `json:"thinking"`
	OutputConfig  struct {
		Format struct {
			Type   string         `json:"type"`
			Schema jsontext.Value `json:"schema"`
		} `json:"format"`
	} `json:"output_config"`
	ServiceTier  serviceTier    `json:"service_tier"`
	Metadata     jsontext.Value `json:"metadata"` // changes nothing, as does what is about caching
	CacheControl jsontext.Value `json:"cache_control"`
}

type anthropicMessage struct {
	Role    string          `json:"role"`
	Content anthropicBlocks `json:"content"`
}

type anthropicBlocks []anthropicBlock

func (b *anthropicBlocks) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return jsonv2.UnmarshalDecode(d, (*[]anthropicBlock)(b))
	}
	var text string
	if err := jsonv2.UnmarshalDecode(d, &text); err != nil {
		return err
	}
	*b = anthropicBlocks{{Type: "text", Text: text}}
	return nil
}

type anthropicBlock struct {
	Type         string         `json:"type"`
	Text         string         `json:"text"`
	Thinking     string         `json:"thinking"`
	Signature    string         `json:"signature"`
	ID           string         `json:"id"`
	Name         string         `json:"name"`
	Input        jsontext.Value `json:"input"`
	ToolUseID    string         `json:"tool_use_id"`
	Content      *textParts     `json:"content"`
	IsError      bool           `json:"is_error"`
	CacheControl jsontext.Value `json:"cache_control"`
	Citations    jsontext.Value `json:"citations"`
}

type anthropicTool struct {
	Type         string         `json:"type"`
	Name         string         `json:"name"`
	Description  string         `json:"description"`
	InputSchema  jsontext.Value `json:"input_schema"`
	CacheControl jsontext.Value `json:"cache_control"`
}

type anthropicChoice struct {
	Type                   string `json:"type"`
	Name                   string `json:"name"`
	DisableParallelToolUse bool   `json:"disable_parallel_tool_use"`
}

type anthropicThinking struct {
	Type         string `json:"type"`
	BudgetTokens *int   `json:"budget_tokens"`
}

// turnMessages gives the messages their form for the engines: each result of a tool is a message of its own.
func (q *messagesRequest) turnMessages() ([]mlx.Message, error) {
	if len(q.Messages) == 0 {
		return nil, badField("messages", "there are none")
	}
	var out []mlx.Message
	if q.System != "" {
		out = append(out, mlx.Message{Role: "system", Content: string(q.System)})
	}
	for i, m := range q.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return nil, badField(atIndex("messages", i, "role"), "%q; there are user and assistant", m.Role)
		}
		message := mlx.Message{Role: m.Role}
		used := len(m.Content) == 0
		for k, b := range m.Content {
			field := atIndex(atIndex("messages", i, "content"), k, "type")
			switch {
			case b.Type == "text":
				message.Content += b.Text
				used = true
			case b.Type == "thinking" && m.Role == "assistant":
				message.Reasoning += b.Thinking
				used = true
			case b.Type == "tool_use" && m.Role == "assistant":
				input := json.RawMessage(b.Input)
				if len(input) == 0 {
					input = json.RawMessage("{}")
				}
				message.ToolCalls = append(message.ToolCalls, mlx.ToolCall{ID: b.ID, Type: "function", Function: mlx.FunctionCall{Name: b.Name, Arguments: input}})
				used = true
			case b.Type == "tool_result" && m.Role == "user":
				result := mlx.Message{Role: "tool", ToolCallID: b.ToolUseID}
				if b.Content != nil {
					result.Content = string(*b.Content)
				}
				if b.IsError {
					result.Content = "error: " + result.Content
				}
				out = append(out, result)
			default:
				return nil, badField(field, "%q cannot stand in a message of the %s here", b.Type, m.Role)
			}
		}
		if used {
			out = append(out, message)
		}
	}
	return out, nil
}

// messagesTurn prepares the answer.
func (s *Server) messagesTurn(w http.ResponseWriter, r *http.Request, q *messagesRequest) (*turn, error) {
	messages, err := q.turnMessages()
	if err != nil {
		return nil, err
	}
	var list tools
	for i, t := range q.Tools {
		if t.Type != "" && t.Type != "custom" {
			return nil, badField(atIndex("tools", i, "type"), "%q; there are custom tools only", t.Type)
		}
		list.list = append(list.list, tool{name: t.Name, description: t.Description, parameters: json.RawMessage(t.InputSchema)})
	}
	if c := q.ToolChoice; c != nil {
		mode, known := map[string]choiceMode{"auto": choiceAuto, "any": choiceRequired, "tool": choiceRequired, "none": choiceNone}[c.Type]
		if !known || (c.Type == "tool") != (c.Name != "") {
			return nil, badField("tool_choice", "there are auto, any, none, and tool with a name")
		}
		list.mode, list.name, list.oneCall = mode, c.Name, c.DisableParallelToolUse
	}
	if err := list.check(); err != nil {
		return nil, err
	}
	thinking := false // as Anthropic's API has it, unless it is asked for
	if t := q.Thinking; t != nil {
		switch {
		case t.BudgetTokens != nil:
			return nil, badField("thinking.budget_tokens", `this server cannot limit reasoning apart from the answer; use {"type": "adaptive"} and max_tokens`)
		case t.Type == "enabled" || t.Type == "adaptive":
			thinking = true
		case t.Type != "disabled":
			return nil, badField("thinking.type", "%q; there are adaptive, enabled and disabled", t.Type)
		}
	}
	lease, err := s.acquire(w, r, q.Model)
	if err != nil {
		return nil, err
	}
	t, err := s.messagesOptions(q, lease, messages, list, thinking)
	if err != nil {
		lease.Release()
	}
	return t, err
}

// messageUsage are the tokens of Anthropic's answers.
type messageUsage struct {
	InputTokens  int `json:"input_tokens"`
	OutputTokens int `json:"output_tokens"`
}

// answerBlock is a part of Anthropic's answers.
type answerBlock struct {
	Type      string          `json:"type"`
	Text      *string         `json:"text,omitempty"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature *string         `json:"signature,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
}

func textBlock(text string) answerBlock { return answerBlock{Type: "text", Text: &text} }

func thinkingBlock(text string) answerBlock {
	none := "" // nothing here needs to be signed
	return answerBlock{Type: "thinking", Thinking: &text, Signature: &none}
}

func toolBlock(c mlx.ToolCall, input json.RawMessage) answerBlock {
	return answerBlock{Type: "tool_use", ID: c.ID, Name: c.Function.Name, Input: input}
}

type messageAnswer struct {
	ID           string        `json:"id"`
	Type         string        `json:"type"`
	Role         string        `json:"role"`
	Model        string        `json:"model"`
	Content      []answerBlock `json:"content"`
	StopReason   *string       `json:"stop_reason"`
	StopSequence *string       `json:"stop_sequence"`
	Usage        messageUsage  `json:"usage"`
}

func (a *messageAnswer) end(o outcome) {
	reason := "end_turn"
	switch {
	case o.finish == mlx.FinishLength:
		reason = "max_tokens"
	case o.calls > 0:
		reason = "tool_use"
	case o.stopString != "":
		reason = "stop_sequence"
		a.StopSequence = &o.stopString
	}
	a.StopReason = &reason
	a.Usage = messageUsage{o.prompt, o.generated}
}

func (s *Server) messages(w http.ResponseWriter, r *http.Request) error {
	var q messagesRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if q.MaxTokens == nil {
		return badField("max_tokens", "it is required")
	}
	t, err := s.messagesTurn(w, r, &q)
	if err != nil {
		return err
	}
	defer t.lease.Release()
	a := &messageAnswer{ID: newID("msg_"), Type: "message", Role: "assistant", Model: q.Model, Content: []answerBlock{}}
	if q.Stream {
		return s.streamMessage(w, r, t, a)
	}
	reply, err := s.collect(r.Context(), t)
	if err != nil {
		return err
	}
	if reply.reasoning != "" {
		a.Content = append(a.Content, thinkingBlock(reply.reasoning))
	}
	if reply.text != "" {
		a.Content = append(a.Content, textBlock(reply.text))
	}
	for _, call := range reply.calls {
		a.Content = append(a.Content, toolBlock(call, call.Function.Arguments))
	}
	a.end(reply.outcome)
	writeJSON(w, http.StatusOK, a)
	return nil
}

// streamMessage sends the answer as blocks, one after the other.
func (s *Server) streamMessage(w http.ResponseWriter, r *http.Request, t *turn, a *messageAnswer) error {
	input, err := t.countPrompt(r.Context())
	if err != nil {
		return err
	}
	a.Usage.InputTokens = input
	out := s.newSSE(w)
	defer out.close()
	send := func(kind string, fields map[string]any) error {
		if fields == nil {
			fields = map[string]any{}
		}
		fields["type"] = kind
		return out.send(kind, fields)
	}
	begun, index, open := false, 0, eventKind(-1)
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		return send("message_start", map[string]any{"message": a})
	}
	closeBlock := func() error {
		if open < 0 {
			return nil
		}
		open = -1
		index++
		return send("content_block_stop", map[string]any{"index": index - 1})
	}
	start := func(kind eventKind, block answerBlock) error {
		if open == kind && kind != eventCall {
			return nil
		}
		if err := closeBlock(); err != nil {
			return err
		}
		open = kind
		return send("content_block_start", map[string]any{"index": index, "content_block": block})
	}
	delta := func(kind, field, text string) error {
		return send("content_block_delta", map[string]any{"index": index, "delta": map[string]any{"type": kind, field: text}})
	}
	o, err := s.run(r.Context(), t, func(e event) error {
		if err := begin(); err != nil {
			return err
		}
		switch e.kind {
		case eventReasoning:
			return errors.Join(start(e.kind, thinkingBlock("")), delta("thinking_delta", "thinking", e.text))
		case eventCall:
			return errors.Join(start(e.kind, toolBlock(e.call, json.RawMessage("{}"))), delta("input_json_delta", "partial_json", string(e.call.Function.Arguments)))
		default:
			return errors.Join(start(e.kind, textBlock("")), delta("text_delta", "text", e.text))
		}
	})
	if err == nil {
		err = errors.Join(begin(), closeBlock())
	}
	if err != nil {
		return s.failStream(r, out, anthropic, err)
	}
	a.end(o)
	_ = send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": a.StopReason, "stop_sequence": a.StopSequence}, "usage": a.Usage})
	_ = send("message_stop", nil) // who is gone by now misses nothing
	return nil
}

func (s *Server) countTokens(w http.ResponseWriter, r *http.Request) error {
	var q messagesRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	t, err := s.messagesTurn(w, r, &q)
	if err != nil {
		return err
	}
	defer t.lease.Release()
	n, err := t.countPrompt(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]int{"input_tokens": n})
	return nil
}

func (s *Server) messagesOptions(q *messagesRequest, lease *registry.Lease, messages []mlx.Message, list tools, thinking bool) (*turn, error) {
	var arguments map[string]any
	format, err := jsonFormat{q.OutputConfig.Format.Type, q.OutputConfig.Format.Schema}.option("output_config.format")
	if err != nil {
		return nil, err
	}
	facts, err := s.facts.of(lease.Path)
	if err != nil {
		return nil, err
	}
	if facts.switchesThinking() && list.mode != choiceRequired && len(format) == 0 {
		arguments = map[string]any{"enable_thinking": thinking}
	}
	t, err := s.prepare(lease, wish{
		messages: messages, tools: list, format: format, formatField: "output_config.format", arguments: arguments,
		sampling: &sampling{Temperature: q.Temperature, TopP: q.TopP, TopK: q.TopK},
	})
	if err != nil {
		return nil, err
	}
	t.options = append(t.options, s.maxTokens(q.MaxTokens))
	if len(q.StopSequences) > 0 {
		t.options = append(t.options, mlx.WithStop(q.StopSequences...))
	}
	return t, nil
}
