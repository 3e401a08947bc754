package anthropic

import (
	"errors"
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
	System        textParts    `json:"system"`
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
	Content   textParts      `json:"content"`
	IsError   bool           `json:"is_error"`
	Title     string         `json:"title"`
	Context   string         `json:"context"`
	Source    textSource     `json:"source"`
}

// textSource is where a document's text is. Of other kinds of sources only the kind is looked at.
type textSource struct {
	Type string
	Data string
}

func (s *textSource) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' { // of a search result: an address
		return d.SkipValue()
	}
	var given struct {
		Type    string    `json:"type"`
		Data    string    `json:"data"`
		Content textParts `json:"content"`
	}
	err := json.UnmarshalDecode(d, &given)
	s.Type, s.Data = given.Type, given.Data+string(given.Content)
	return err
}

// textParts is a text, or a list of text blocks, which are joined.
type textParts string

func (t *textParts) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '[' {
		var text string
		err := json.UnmarshalDecode(d, &text)
		*t = textParts(text)
		return err
	}
	var parts []struct {
		Type    partType   `json:"type"`
		Text    string     `json:"text"`
		Title   string     `json:"title"`
		Context string     `json:"context"`
		Content textParts  `json:"content"` // of a search result
		Source  textSource `json:"source"`  // of a document
	}
	if err := json.UnmarshalDecode(d, &parts); err != nil {
		return err
	}
	for i, p := range parts {
		if p.Type == "document" && p.Source.Type != "text" && p.Source.Type != "content" {
			return fmt.Errorf("block %d is a document of type %q; this server takes text", i, p.Source.Type)
		}
		for _, text := range []string{p.Title, p.Context, p.Text, string(p.Content), p.Source.Data} {
			if p.Type == "tool_reference" {
				break
			}
			*t = textParts(paragraph(string(*t), text))
		}
	}
	return nil
}

// partType is a block of text.
type partType string

func (p *partType) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var name string
	if err := json.UnmarshalDecode(d, &name); err != nil {
		return err
	}
	if !slices.Contains([]string{"text", "tool_reference", "search_result", "document"}, name) {
		return errors.New("this server takes blocks of text only, not " + name)
	}
	*p = partType(name)
	return nil
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

// Streams says whether the answer is streamed.
func (q *Request) Streams() bool { return q.Stream }

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
		Names: q.Named(),
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
	if t.Type != "enabled" && t.Type != "adaptive" {
		return turn.Bad("thinking.type", "%q; there are adaptive, enabled and disabled", t.Type)
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
		message := mlx.Message{Role: m.Role}
		used := len(m.Content) == 0
		for k, b := range m.Content {
			result, own, err := b.into(&message)
			switch {
			case err != nil:
				return nil, turn.Bad(turn.At(turn.At("messages", i, "content"), k, "type"), "%v", err)
			case result != nil:
				out = append(out, *result)
			}
			used = used || own
		}
		if used {
			out = append(out, message)
		}
	}
	if len(out) == 0 {
		return nil, turn.Bad("messages", "they say nothing")
	}
	return out, nil
}

// into adds a block to a message; or it is a result, which is one of its own. own says that the message has something of it.
func (b block) into(m *mlx.Message) (result *mlx.Message, own bool, err error) {
	switch {
	case b.Type == "text" || b.Type == "" && b.Text != "":
		m.Content = paragraph(m.Content, b.Text)
	case b.Type == "thinking" && m.Role == "assistant":
		m.Reasoning += b.Thinking
	case slices.Contains([]string{"redacted_thinking", "server_tool_use", "mcp_tool_use", "compaction", "fallback"}, b.Type),
		b.Type != "tool_result" && strings.HasSuffix(b.Type, "_tool_result"):
		return nil, false, nil // there is nothing in it that a model could read, or it is of other servers' tools
	case b.Type == "tool_use" && m.Role == "assistant":
		input := b.Input
		var quoted string
		if json.Unmarshal(input, &quoted) == nil { // some programs keep it as the text that a stream gave
			input = jsontext.Value(turn.WholeArguments(quoted))
		}
		if len(input) == 0 {
			input = jsontext.Value("{}")
		}
		m.ToolCalls = append(m.ToolCalls, mlx.ToolCall{ID: b.ID, Type: "function", Function: mlx.FunctionCall{Name: b.Name, Arguments: []byte(input)}})
	case b.Type == "tool_result" && m.Role == "user":
		result := &mlx.Message{Role: "tool", ToolCallID: b.ToolUseID, Content: string(b.Content)}
		if b.IsError {
			result.Content = "error: " + result.Content
		}
		return result, false, nil
	case b.Type == "document" && (b.Source.Type == "text" || b.Source.Type == "content"):
		for _, text := range []string{b.Title, b.Context, b.Source.Data} {
			m.Content = paragraph(m.Content, text)
		}
	case b.Type == "search_result":
		m.Content = paragraph(paragraph(m.Content, b.Title), string(b.Content))
	default:
		return nil, false, fmt.Errorf("%q cannot stand in a message of the %s here", b.Type, m.Role)
	}
	return nil, true, nil
}

// paragraph adds a block's text to that of the ones before it.
func paragraph(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n" + b
}
