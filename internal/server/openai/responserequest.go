package openai

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// ResponseRequest is the body of /v1/responses; ResponseFields has what becomes of its fields.
type ResponseRequest struct {
	turn.Sampling
	Model              string            `json:"model"`
	Input              responseInput     `json:"input"`
	Instructions       string            `json:"instructions"`
	PreviousResponseID string            `json:"previous_response_id"`
	MaxOutputTokens    *turn.Count       `json:"max_output_tokens"`
	Stop               turn.Strings      `json:"stop"`
	Stream             bool              `json:"stream"`
	Store              *bool             `json:"store"`
	Metadata           map[string]string `json:"metadata"`
	Tools              []responseTool    `json:"tools"`
	ToolChoice         toolChoice        `json:"tool_choice"`
	ParallelToolCalls  *bool             `json:"parallel_tool_calls"`
	Text               responseText      `json:"text"`
	Reasoning          *responseEffort   `json:"reasoning"`
	PromptCacheKey     string            `json:"prompt_cache_key"`

	Responses *ResponseStore `json:"-"` // where earlier ones are

	conversation []mlx.Message // without instructions, for the next turn
	added        []turn.Tool   // by items, of earlier turns too
	changed      changes       // by items, of earlier turns too
	live         *responding   // the stream, once it has begun
}

type responseEffort struct {
	Effort *string `json:"effort"`
}

type responseText struct {
	Format responseFormat `json:"format"`
}

type responseFormat struct {
	Type        string         `json:"type"`
	Name        string         `json:"name,omitzero"`
	Description string         `json:"description,omitzero"`
	Schema      jsontext.Value `json:"schema,omitzero"`
	Strict      *bool          `json:"strict,omitzero"`
}

// form is the format as all APIs share it; field is where the request has it.
func (f responseFormat) form(field string) turn.Format {
	return turn.Format{Type: f.Type, Schema: f.Schema, Loose: f.Strict == nil || !*f.Strict, Field: field}
}

type responseTool struct {
	Type string `json:"type"`
	functionSpec
}

// responseInput is a text, or a list of items.
type responseInput []responseItem

func (in *responseInput) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return json.UnmarshalDecode(d, (*[]responseItem)(in))
	}
	var text string
	if err := json.UnmarshalDecode(d, &text); err != nil {
		return err
	}
	*in = responseInput{{Role: "user", Content: textParts(text)}}
	return nil
}

// responseItem is a message, a call, what it returned, a thought, or a reference to one of these.
type responseItem struct {
	Type      string         `json:"type"`
	ID        string         `json:"id"`
	Status    string         `json:"status"`
	Role      string         `json:"role"`
	Content   textParts      `json:"content"`
	CallID    string         `json:"call_id"`
	Name      string         `json:"name"`
	Arguments jsonString     `json:"arguments"`
	Input     string         `json:"input"` // of a custom tool
	Output    itemOutput     `json:"output"`
	Summary   textParts      `json:"summary"`
	Tools     jsontext.Value `json:"tools"`     // of additional_tools, a list of responseTool; of others anything
	Reasoning jsontext.Value `json:"reasoning"` // of configuration_update, a responseEffort
	Text      jsontext.Value `json:"text"`      // of configuration_update, a responseText
}

// changes are what items of configuration_update have set; each stays until another one sets it again.
type changes struct {
	Effort *string
	Format *turn.Format
}

// update takes what an item sets.
func (c *changes) update(i int, item responseItem) error {
	var effort responseEffort
	var text struct {
		Format *responseFormat `json:"format"`
	}
	for name, part := range map[string]struct {
		from jsontext.Value
		to   any
	}{"reasoning": {item.Reasoning, &effort}, "text": {item.Text, &text}} {
		if len(part.from) == 0 {
			continue
		}
		if err := turn.Part(turn.At("input", i, name), part.from, part.to); err != nil {
			return err
		}
	}
	if effort.Effort != nil {
		c.Effort = effort.Effort
	}
	if text.Format != nil {
		format := text.Format.form(turn.At("input", i, "text.format"))
		c.Format = &format
	}
	return nil
}

// itemOutput is what a tool returned: a text, parts of one, or an object, which is given as JSON.
type itemOutput string

func (o *itemOutput) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '{' {
		value, err := d.ReadValue()
		*o = itemOutput(value)
		return err
	}
	return json.UnmarshalDecode(d, (*textParts)(o))
}

// ModelName is the model that the request names.
func (q *ResponseRequest) ModelName() string { return q.Model }

// UseModel names the model of a request that names none.
func (q *ResponseRequest) UseModel(name string) { q.Model = name }

// Streams says whether the answer is streamed.
func (q *ResponseRequest) Streams() bool { return q.Stream }

// Named are the API's names of the fields that set options.
func (q *ResponseRequest) Named() turn.Names {
	return turn.Names{"WithMaxTokens": "max_output_tokens", "Prompt": "input", "JSONSchema": "text.format", "Effort": "reasoning.effort"}
}

// Spec is the request in the form that all APIs share.
func (q *ResponseRequest) Spec() (*turn.Spec, error) {
	var earlier []mlx.Message
	if q.PreviousResponseID != "" {
		stored, ok := q.Responses.get(q.PreviousResponseID)
		if !ok {
			return nil, &turn.Error{Kind: turn.NotFound, Code: "previous_response_not_found", Param: "previous_response_id",
				Message: "there is no response " + q.PreviousResponseID + ": it was not stored, or is gone since"}
		}
		earlier, q.added, q.changed = stored.conversation, stored.added, stored.changed
	}
	if err := turn.AtMost("input", len(q.Input), turn.MaxMessages, "items"); err != nil {
		return nil, err
	}
	b := &conversation{messages: append([]mlx.Message{}, earlier...), responses: q.Responses}
	for i, item := range q.Input {
		if err := b.add(i, item); err != nil {
			return nil, err
		}
	}
	b.close()
	if len(b.messages) == 0 {
		return nil, turn.Bad("input", "there is none")
	}
	q.conversation = b.messages
	messages := b.messages
	if q.Instructions != "" {
		messages = append([]mlx.Message{{Role: "system", Content: q.Instructions}}, messages...)
	}
	for i, item := range q.Input {
		if item.Type == "configuration_update" {
			if err := q.changed.update(i, item); err != nil {
				return nil, err
			}
		}
		if item.Type != "additional_tools" {
			continue
		}
		var given []responseTool
		field := turn.At("input", i, "tools")
		if err := turn.Part(field, item.Tools, &given); err != nil {
			return nil, err
		}
		q.added = withTools(q.added, functions(field, given))
	}
	list := withTools(functions("tools", q.Tools), q.added)
	w := &turn.Spec{
		Messages: messages, Tools: toolsOf(list, q.ToolChoice, q.ParallelToolCalls), MaxTokens: q.MaxOutputTokens.Int(),
		Sampling: &q.Sampling, Stop: q.Stop, Session: q.PromptCacheKey, Names: q.Named(),
		Format: q.Text.Format.form("text.format"),
	}
	if q.Reasoning != nil {
		w.Effort = q.Reasoning.Effort
	}
	if c := q.changed; c.Effort != nil {
		w.Effort = c.Effort
	}
	if c := q.changed; c.Format != nil {
		w.Format = *c.Format
	}
	return w, nil
}

// functions are the tools of a list that a model here can call.
func functions(field string, given []responseTool) (list []turn.Tool) {
	for i, t := range given {
		if t.Type == "function" || t.Type == "" {
			list = append(list, t.tool(fmt.Sprintf("%s[%d]", field, i)))
		}
	}
	return list
}

// withTools adds tools to a list. One of a name that the list has takes that one's place: a client that sends its history again sends the tools
// of its items again, too.
func withTools(list, added []turn.Tool) []turn.Tool {
	list = slices.Clone(list)
	for _, tool := range added {
		if i := slices.IndexFunc(list, func(t turn.Tool) bool { return t.Name == tool.Name }); i >= 0 {
			list[i] = tool
		} else {
			list = append(list, tool)
		}
	}
	return list
}

// conversation turns items into messages: thought, text and calls of one answer are several items, and one message.
type conversation struct {
	messages  []mlx.Message
	responses *ResponseStore
	named     map[string]bool // items that were referred to

	open            bool     // the last message is the assistant's and of this input
	texts, thoughts []string // of it
}

func (b *conversation) assistant() *mlx.Message {
	if !b.open {
		b.messages = append(b.messages, mlx.Message{Role: "assistant"})
		b.open = true
	}
	return &b.messages[len(b.messages)-1]
}

// close ends the assistant's message.
func (b *conversation) close() {
	if b.open {
		m := &b.messages[len(b.messages)-1]
		m.Content, m.Reasoning = strings.Join(b.texts, ""), strings.Join(b.thoughts, "")
	}
	b.open, b.texts, b.thoughts = false, nil, nil
}

func (b *conversation) other(m mlx.Message) {
	b.close()
	b.messages = append(b.messages, m)
}

func (b *conversation) text(text string) {
	b.assistant()
	b.texts = append(b.texts, text)
}

func (b *conversation) thought(text string) {
	b.assistant()
	b.thoughts = append(b.thoughts, text)
}

func (b *conversation) call(c mlx.ToolCall) {
	m := b.assistant()
	m.ToolCalls = append(m.ToolCalls, c)
}

func (b *conversation) add(i int, item responseItem) error {
	switch item.Type {
	case "", "message":
		switch item.Role {
		case "system", "user":
			b.other(mlx.Message{Role: item.Role, Content: string(item.Content)})
		case "developer":
			b.other(mlx.Message{Role: "system", Content: string(item.Content)})
		case "assistant":
			if len(b.assistant().ToolCalls) > 0 { // a text after a call is a message of its own
				b.close()
			}
			b.text(string(item.Content))
		default:
			if item.Type == "" && item.Role == "" && item.ID != "" { // a reference may come without its type
				return b.reference(i, item.ID)
			}
			return wrongRole(turn.At("input", i, "role"), item.Role)
		}
	case "function_call":
		b.call(mlx.ToolCall{ID: item.CallID, Type: "function", Function: mlx.FunctionCall{Name: item.Name, Arguments: arguments(string(item.Arguments))}})
	case "custom_tool_call":
		call, err := customCall(item.CallID, item.Name, item.Input)
		if err != nil {
			return err
		}
		b.call(call)
	case "function_call_output", "custom_tool_call_output", "local_shell_call_output", "shell_call_output", "apply_patch_call_output":
		if item.CallID == "" { // of a call that is left out
			return nil
		}
		b.other(mlx.Message{Role: "tool", ToolCallID: item.CallID, Content: string(item.Output)})
	case "reasoning":
		text := string(item.Content)
		if text == "" {
			text = string(item.Summary)
		}
		b.thought(text)
	case "agent_message": // of another agent, to this one
		b.other(mlx.Message{Role: "user", Content: string(item.Content)})
	case "item_reference":
		return b.reference(i, item.ID)
	case "additional_tools", "configuration_update": // they are about the request as a whole
	case "compaction_trigger":
		return turn.Bad(turn.At("input", i, "type"), "this server makes no summaries of its own (compaction_trigger)")
	default:
		if othersItem(item.Type) {
			return nil
		}
		return turn.Bad(turn.At("input", i, "type"), "%q; there are message, function_call, function_call_output, reasoning and item_reference", item.Type)
	}
	return nil
}

// othersItem reports whether an item is what other servers' tools did (web_search_call, apply_patch_call_output …), or programs note
// for themselves: a model here would not know of it.
func othersItem(kind string) bool {
	return strings.HasSuffix(kind, "_call") || strings.HasSuffix(kind, "_call_output") || strings.HasSuffix(kind, "_search_output") ||
		slices.Contains([]string{"mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "compaction", "compaction_summary", "context_compaction",
			"ghost_snapshot", "program", "program_output"}, kind)
}

// reference adds an item of a response that is kept.
func (b *conversation) reference(i int, id string) error {
	item, ok := b.responses.item(id)
	if !ok {
		return &turn.Error{Kind: turn.NotFound, Code: "item_not_found", Param: turn.At("input", i, "id"),
			Message: fmt.Sprintf("Item with id '%s' not found: its response was not stored, or is gone since; send the item itself", id)}
	}
	if b.named[id] { // each may be long
		return turn.Bad(turn.At("input", i, "id"), "Duplicate item found with id %s. Remove duplicate items from your input and try again.", id)
	}
	if b.named == nil {
		b.named = map[string]bool{}
	}
	b.named[id] = true
	switch item.Type {
	case "message":
		b.text(item.text())
	case "reasoning":
		b.thought(item.text())
	case "function_call":
		b.call(item.call())
	}
	return nil
}
