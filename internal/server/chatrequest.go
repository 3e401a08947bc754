package server

import (
	"encoding/json"
	"errors"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
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
	Type     string       `json:"type"`
	Function functionSpec `json:"function"`
}

// functionSpec is a function that a model may call.
type functionSpec struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Parameters  jsontext.Value `json:"parameters"`
	Strict      *bool          `json:"strict"`
}

// toolsOf gives tools their form, which both of OpenAI's APIs share but for the depth of their fields.
func toolsOf(given []responseTool, choice chatToolChoice, parallel *bool) (tools, error) {
	out := tools{mode: choice.mode, name: choice.name, oneCall: parallel != nil && !*parallel}
	for i, t := range given {
		if t.Type != "function" {
			return out, badField(atIndex("tools", i, "type"), "%q; there are functions only", t.Type)
		}
		out.list = append(out.list, tool{t.Name, t.Description, json.RawMessage(t.Parameters), t.Strict != nil && *t.Strict})
	}
	return out, out.check()
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
