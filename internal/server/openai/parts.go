package openai

import (
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// textParts is a text, or a list of text parts, which are joined.
type textParts string

func (t *textParts) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '[' {
		var text string
		err := json.UnmarshalDecode(d, &text)
		*t = textParts(text)
		return err
	}
	var parts []textPart
	if err := json.UnmarshalDecode(d, &parts); err != nil {
		return err
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text + p.Refusal)
	}
	*t = textParts(b.String())
	return nil
}

type textPart struct {
	Type    partType `json:"type"`
	Text    string   `json:"text"`
	Refusal string   `json:"refusal"`
}

// partType is one of the names for a part of text.
type partType string

func (p *partType) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var name string
	if err := json.UnmarshalDecode(d, &name); err != nil {
		return err
	}
	// Of what is encrypted there is no text.
	if !slices.Contains([]string{"text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "encrypted_content"}, name) {
		return errors.New("this server takes parts of text only, not " + name)
	}
	*p = partType(name)
	return nil
}

// functionSpec is a function that a model may call.
type functionSpec struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Parameters  jsontext.Value `json:"parameters"`
	Strict      bool           `json:"strict"`
}

func (f functionSpec) tool(field string) turn.Tool {
	return turn.Tool{Name: f.Name, Description: f.Description, Parameters: f.Parameters, Strict: f.Strict, Field: field}
}

// toolChoice is "none", "auto", "required", a function, or a choice among some.
type toolChoice struct {
	mode turn.Mode
	only []string
}

func (c *toolChoice) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		var mode string
		if err := json.UnmarshalDecode(d, &mode); err != nil {
			return err
		}
		return c.set(mode)
	}
	type named struct {
		Type     string `json:"type"`
		Name     string `json:"name"` // in the responses API
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	type allowed struct {
		Mode  string  `json:"mode"`
		Tools []named `json:"tools"` // of any type, so with any fields
	}
	var given struct {
		named
		allowed
		Allowed *allowed `json:"allowed_tools"`
	}
	if err := json.UnmarshalDecode(d, &given, json.RejectUnknownMembers(false)); err != nil {
		return err
	}
	switch given.Type {
	case "auto", "none", "any", "required": // as Anthropic's API writes it
		return c.set(given.Type)
	case "function":
		c.mode, c.only = turn.Required, []string{given.Name + given.Function.Name}
		return nil
	case "allowed_tools":
		list := given.allowed
		if given.Allowed != nil {
			list = *given.Allowed
		}
		c.only = []string{}
		for _, t := range list.Tools {
			if t.Type == "function" {
				c.only = append(c.only, t.Name+t.Function.Name)
			}
		}
		return c.set(list.Mode)
	}
	return errors.New("only functions can be chosen")
}

func (c *toolChoice) set(mode string) error {
	if mode == "any" { // as Mistral's API calls it
		mode = string(turn.Required)
	}
	switch c.mode = turn.Mode(mode); c.mode {
	case turn.Auto, turn.None, turn.Required:
		return nil
	}
	return errors.New("there are none, auto, required, allowed_tools and a function")
}

// toolsOf gives tools their form; those that are no functions were left out.
func toolsOf(given []turn.Tool, choice toolChoice, parallel *bool) turn.Tools {
	return turn.Tools{List: given, Mode: choice.mode, Only: choice.only, OneCall: parallel != nil && !*parallel}
}

// arguments are those of a call, which clients may leave empty. What a model wrote comes back in every later turn, so it may be no
// JSON either.
func arguments(text string) []byte {
	if strings.TrimSpace(text) == "" {
		return []byte("{}")
	}
	if jsontext.Value(text).IsValid() {
		return []byte(text)
	}
	return turn.WholeArguments(text)
}

// customCall is a call of a tool with free text, as one of a function.
func customCall(id, name, input string) (mlx.ToolCall, error) {
	data, err := json.Marshal(map[string]string{"input": input})
	return mlx.ToolCall{ID: id, Type: "function", Function: mlx.FunctionCall{Name: name, Arguments: data}}, err
}

func wrongRole(field, role string) error {
	return turn.Bad(field, "%q; there are system, developer, user, assistant and tool", role)
}
