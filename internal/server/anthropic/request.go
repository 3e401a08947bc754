package anthropic

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// Request is the body of /v1/messages; MessageFields has what becomes of its fields.
type Request struct {
	Model         string       `json:"model"`
	Messages      []message    `json:"messages"`
	System        systemText   `json:"system"`
	MaxTokens     *turn.Count  `json:"max_tokens"`
	StopSequences []string     `json:"stop_sequences"`
	Stream        bool         `json:"stream"`
	Temperature   *float32     `json:"temperature"`
	TopP          *float32     `json:"top_p"`
	TopK          *turn.Count  `json:"top_k"`
	Tools         []tool       `json:"tools"`
	ToolChoice    *choice      `json:"tool_choice"`
	Thinking      *thinking    `json:"thinking"`
	OutputConfig  outputConfig `json:"output_config"`
	OutputFormat  *format      `json:"output_format"` // as it was called before output_config

	Counting bool `json:"-"` // the tokens of the prompt are asked for, and no answer
}

type outputConfig struct {
	Format *format `json:"format"`
}

type format struct {
	Type   string         `json:"type"`
	Schema jsontext.Value `json:"schema"`
}

type message struct {
	Role    string `json:"role"`
	Content blocks `json:"content"`
}

// blocks is a text, or a list of blocks.
type blocks []block

func (b *blocks) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return json.UnmarshalDecode(d, (*[]block)(b))
	}
	var text string
	if err := json.UnmarshalDecode(d, &text); err != nil {
		return err
	}
	*b = blocks{{Type: "text", Text: text}}
	return nil
}

type block struct {
	Type      string         `json:"type"`
	Text      string         `json:"text"`
	Thinking  string         `json:"thinking"`
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Input     jsontext.Value `json:"input"`
	ToolUseID string         `json:"tool_use_id"`
	Content   contents       `json:"content"`
	IsError   bool           `json:"is_error"`
	Title     string         `json:"title"`
	Context   string         `json:"context"`
	Source    source         `json:"source"`
}

type tool struct {
	Type        string         `json:"type"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	InputSchema jsontext.Value `json:"input_schema"`
	Strict      bool           `json:"strict"`
}

type choice struct {
	Type                   string `json:"type"`
	Name                   string `json:"name"`
	DisableParallelToolUse bool   `json:"disable_parallel_tool_use"`
}

type thinking struct {
	Type         string      `json:"type"`
	BudgetTokens *turn.Count `json:"budget_tokens"`
}

// ModelName is the model that the request names.
func (q *Request) ModelName() string { return q.Model }

// UseModel names the model of a request that names none.
func (q *Request) UseModel(name string) { q.Model = name }

// Streams says whether the answer is streamed.
func (q *Request) Streams() bool { return q.Stream && !q.Counting }

// Named are the API's names of the fields that set options.
func (q *Request) Named() turn.Names {
	return turn.Names{"WithStop": "stop_sequences", "JSONSchema": "output_config.format", "Budget": "thinking.budget_tokens"}
}

// Spec is the request in the form that all APIs share.
func (q *Request) Spec() (*turn.Spec, error) {
	if q.MaxTokens == nil && !q.Counting {
		return nil, turn.Bad("max_tokens", "it is required")
	}
	messages, err := q.turnMessages()
	if err != nil {
		return nil, err
	}
	off := false
	w := &turn.Spec{
		Messages: messages, Join: true, Sampling: &turn.Sampling{Temperature: q.Temperature, TopP: q.TopP, TopK: q.TopK}, Stop: q.StopSequences,
		MaxTokens: q.MaxTokens.Int(), Thinking: &off, // as Anthropic's API has it, unless it is asked for
		Names: q.Named(), Counts: q.Counting,
	}
	if last := messages[len(messages)-1]; last.Role == "assistant" && len(last.ToolCalls) == 0 {
		w.Continue = true
	}
	if f := q.OutputConfig.Format; f != nil {
		w.Format = turn.Format{Type: f.Type, Schema: f.Schema, Field: "output_config.format"}
	} else if f := q.OutputFormat; f != nil {
		w.Format = turn.Format{Type: f.Type, Schema: f.Schema, Field: "output_format"}
	}
	for i, t := range q.Tools {
		if t.Type == "" || t.Type == "custom" {
			w.Tools.List = append(w.Tools.List, turn.Tool{Name: t.Name, Description: t.Description, Parameters: t.InputSchema, Strict: t.Strict, Field: fmt.Sprintf("tools[%d]", i)})
		}
	}
	if c := q.ToolChoice; c != nil {
		mode, known := map[string]turn.Mode{"auto": turn.Auto, "any": turn.Required, "tool": turn.Required, "none": turn.None}[c.Type]
		if !known || (c.Type == "tool") != (c.Name != "") {
			return nil, turn.Bad("tool_choice", "there are auto, any, none, and tool with a name")
		}
		w.Tools.Mode, w.Tools.OneCall = mode, c.DisableParallelToolUse
		if c.Name != "" {
			w.Tools.Only = []string{c.Name}
		}
	}
	return w, q.think(w)
}

// think says whether the model may think, and how long.
func (q *Request) think(w *turn.Spec) error {
	t := q.Thinking
	if t == nil || t.Type == "disabled" {
		return nil
	}
	if !slices.Contains([]string{"enabled", "adaptive", "between_tools"}, t.Type) {
		return turn.Bad("thinking.type", "%q; there are adaptive, enabled, between_tools and disabled", t.Type)
	}
	if t.BudgetTokens != nil {
		if *t.BudgetTokens < 1 {
			return turn.Bad("thinking.budget_tokens", "%d is not positive", *t.BudgetTokens)
		}
		w.Budget = int(*t.BudgetTokens)
	}
	*w.Thinking = true
	return nil
}

// turnMessages gives the messages their form for the engines: each result of a tool is a message of its own.
func (q *Request) turnMessages() ([]mlx.Message, error) {
	if len(q.Messages) == 0 {
		return nil, turn.Bad("messages", "there are none")
	}
	var out []mlx.Message
	if q.System != "" {
		out = append(out, mlx.Message{Role: "system", Content: string(q.System)})
	}
	for i, m := range q.Messages {
		if m.Role != "user" && m.Role != "assistant" && m.Role != "system" {
			return nil, turn.Bad(turn.At("messages", i, "role"), "%q; there are user, assistant and system", m.Role)
		}
		own := collecting{message: mlx.Message{Role: m.Role}, used: len(m.Content) == 0}
		for k, b := range m.Content {
			result, err := own.add(b, fmt.Sprintf("%s[%d]", turn.At("messages", i, "content"), k))
			switch {
			case err != nil:
				return nil, err
			case result != nil:
				out = append(out, *result)
			}
		}
		if own.used {
			own.message.Content, own.message.Reasoning = paragraphs(own.texts...), strings.Join(own.thoughts, "")
			out = append(out, own.message)
		}
	}
	if len(out) == 0 {
		return nil, turn.Bad("messages", "they say nothing")
	}
	return out, nil
}

// collecting is a message whose blocks are being read.
type collecting struct {
	message         mlx.Message
	texts, thoughts []string
	used            bool // there is something of its own in it
}

// add takes a block into the message; or it is a result, which is a message of its own. At is where the request has it.
func (c *collecting) add(b block, at string) (result *mlx.Message, err error) {
	role := c.message.Role
	var text string
	switch {
	case b.Type == "text" || b.Type == "" && b.Text != "":
		text = b.Text
	case b.Type == "thinking" && role == "assistant":
		c.thoughts = append(c.thoughts, b.Thinking)
	case slices.Contains([]string{"redacted_thinking", "server_tool_use", "mcp_tool_use", "mcp_tool_listing", "fallback"}, b.Type),
		b.Type != "tool_result" && strings.HasSuffix(b.Type, "_tool_result"):
		return nil, nil // there is nothing in it that a model could read, or it is of other servers' tools
	case b.Type == "tool_use" && role == "assistant":
		c.message.ToolCalls = append(c.message.ToolCalls, b.call())
	case b.Type == "tool_result" && role == "user":
		if text, err = b.Content.text(at + ".content"); err != nil {
			return nil, err
		}
		if b.IsError {
			text = "error: " + text
		}
		return &mlx.Message{Role: "tool", ToolCallID: b.ToolUseID, Content: text}, nil
	case b.Type == "document":
		if text, err = b.Source.text(at + ".source"); err == nil {
			text = paragraphs(b.Title, b.Context, text)
		}
	case b.Type == "search_result":
		if text, err = b.Content.text(at + ".content"); err == nil {
			text = paragraphs(b.Title, text)
		}
	case b.Type == "compaction": // a summary of what was said before
		text, err = b.Content.text(at + ".content")
	default:
		err = turn.Bad(at+".type", "%q cannot stand in a message of the %s here", b.Type, role)
	}
	if err != nil {
		return nil, err
	}
	c.texts, c.used = append(c.texts, text), true
	return nil, nil
}

// call is a call that the model made in an earlier turn.
func (b block) call() mlx.ToolCall {
	input := b.Input
	var quoted string
	if json.Unmarshal(input, &quoted) == nil { // some programs keep it as the text that a stream gave
		input = jsontext.Value(turn.WholeArguments(quoted))
	}
	if len(input) == 0 {
		input = jsontext.Value("{}")
	}
	return mlx.ToolCall{ID: b.ID, Type: "function", Function: mlx.FunctionCall{Name: b.Name, Arguments: []byte(input)}}
}
