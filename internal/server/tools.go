package server

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// tool is a function that a model may call.
type tool struct {
	name        string
	description string
	parameters  json.RawMessage // a JSON schema; nil for no parameters
	strict      bool
}

// choiceMode is what a request says about calling tools.
type choiceMode string

const (
	choiceAuto     choiceMode = "auto"
	choiceNone     choiceMode = "none"
	choiceRequired choiceMode = "required"
)

// tools are those of a request.
type tools struct {
	list    []tool
	mode    choiceMode // "" is auto
	name    string     // with choiceRequired: this one; "" for any
	oneCall bool       // at most one call
}

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)

// check finds what is wrong with the tools themselves.
func (t *tools) check() error {
	for i, given := range t.list {
		field := func(name string) string { return atIndex("tools", i, name) }
		switch {
		case !toolName.MatchString(given.name):
			return badField(field("name"), "%q is not made of 1 to 128 letters, digits, and _ . -", given.name)
		case slices.ContainsFunc(t.list[:i], func(other tool) bool { return other.name == given.name }):
			return badField(field("name"), "%q is given twice", given.name)
		case len(given.parameters) > 0 && given.parameters[0] != '{':
			return badField(field("parameters"), "not a JSON schema")
		case given.strict && t.mode != choiceRequired:
			return badField(field("strict"), "arguments follow their schema only when a call is required (tool_choice)")
		}
	}
	if t.mode == choiceRequired {
		if len(t.list) == 0 {
			return badField("tool_choice", "there are no tools")
		}
		if t.name != "" && !slices.ContainsFunc(t.list, func(other tool) bool { return other.name == t.name }) {
			return badField("tool_choice", "there is no tool %q", t.name)
		}
	}
	return nil
}

// option gives the tools to the chat template, and makes the model call one where that is required.
func (t *tools) option(template string) ([]mlx.GenerateOption, error) {
	if len(t.list) == 0 || t.mode == choiceNone {
		return nil, nil
	}
	if !strings.Contains(template, "tools") {
		return nil, badField("tools", "the model's chat template knows no tools")
	}
	type function struct {
		Name        string          `json:"name"`
		Description string          `json:"description,omitempty"`
		Parameters  json.RawMessage `json:"parameters"`
	}
	type entry struct {
		Type     string   `json:"type"`
		Function function `json:"function"`
	}
	var entries []entry
	for _, given := range t.list {
		entries = append(entries, entry{"function", function{given.name, given.description, given.schema()}})
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return nil, badField("tools", "%v", err)
	}
	out := []mlx.GenerateOption{mlx.WithTools(data)}
	if t.mode == choiceRequired {
		grammar, err := t.grammar(template)
		if err != nil {
			return nil, err
		}
		out = append(out, mlx.WithGrammar(grammar))
	}
	return out, nil
}

func (t tool) schema() json.RawMessage {
	if len(t.parameters) == 0 {
		return json.RawMessage(`{"type":"object","properties":{}}`)
	}
	return t.parameters
}

// grammar is one of calls: Lark, as llguidance reads it.
func (t *tools) grammar(template string) (string, error) {
	marks, err := segment.Infer(template, func(string) bool { return false })
	if err != nil {
		return "", badField("tool_choice", "%v", err)
	}
	if marks.ToolStart != "<tool_call>" {
		return "", badField("tool_choice", "a call can be required only of models that write calls as JSON in <tool_call>")
	}
	var calls []any
	for _, given := range t.list {
		if t.name == "" || t.name == given.name {
			calls = append(calls, map[string]any{
				"type": "object",
				"properties": orderedPair{
					"name", map[string]any{"const": given.name},
					"arguments", given.schema(),
				},
				"required": []string{"name", "arguments"}, "additionalProperties": false,
			})
		}
	}
	schema, err := json.Marshal(map[string]any{"anyOf": calls})
	if err != nil {
		return "", badField("tools", "%v", err)
	}
	more := ""
	if !t.oneCall {
		more = ` ("\n" one)*`
	}
	return "start: one" + more + "\none: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json " + string(schema) + "\n", nil
}

// orderedPair is a JSON object of two fields in this order: calls begin with their name.
type orderedPair struct {
	first  string
	one    any
	second string
	two    any
}

// MarshalJSON writes the object.
func (p orderedPair) MarshalJSON() ([]byte, error) {
	one, err := json.Marshal(p.one)
	if err != nil {
		return nil, err
	}
	two, err := json.Marshal(p.two)
	if err != nil {
		return nil, err
	}
	return []byte(`{"` + p.first + `":` + string(one) + `,"` + p.second + `":` + string(two) + `}`), nil
}
