package turn

import (
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Tool is a function that a model may call.
type Tool struct {
	Name        string
	Description string
	Parameters  jsontext.Value // a JSON schema; nil for no parameters
	Strict      bool           // its arguments are to follow the schema
	Field       string         // where the request has it
}

// Mode is whether the model may, must or must not call tools.
type Mode string

// Modes.
const (
	Auto     Mode = "auto"
	None     Mode = "none"
	Required Mode = "required"
)

// Tools are those of a request.
type Tools struct {
	List    []Tool
	Mode    Mode     // "" is Auto
	Only    []string // of List, those that may be called; nil for all
	OneCall bool     // at most one call
}

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_.:/-]{1,128}$`)

// check finds what is wrong with the tools themselves.
func (t *Tools) check(names Names) error {
	if err := AtMost("tools", len(t.List), MaxTools, "tools"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, given := range t.List {
		switch {
		case !toolName.MatchString(given.Name):
			return Bad(given.Field+".name", "%q is not made of 1 to 128 letters, digits, and _ . : / -", given.Name)
		case seen[given.Name]:
			return Bad(given.Field+".name", "%q is given twice", given.Name)
		case len(given.Parameters) > 0 && given.Parameters.Kind() != '{':
			return Bad(given.Field+".parameters", "not a JSON schema")
		}
		seen[given.Name] = true
	}
	for _, name := range t.Only {
		if !seen[name] {
			return Bad(names.Of("ToolChoice"), "there is no tool %q", name)
		}
	}
	if t.Mode == Required && len(t.callable()) == 0 {
		return Bad(names.Of("ToolChoice"), "there are no tools that this server can offer")
	}
	return nil
}

// callable are the tools that the model may call.
func (t *Tools) callable() []Tool {
	if t.Mode == None {
		return nil
	}
	if t.Only == nil {
		return t.List
	}
	return slices.DeleteFunc(slices.Clone(t.List), func(given Tool) bool { return !slices.Contains(t.Only, given.Name) })
}

// offers reports whether a function of this name was offered.
func (t *Tools) offers(name string) bool {
	return slices.ContainsFunc(t.callable(), func(given Tool) bool { return given.Name == name })
}

// option gives the tools to the chat template.
func (t *Tools) option(template string, names Names) ([]mlx.GenerateOption, error) {
	if len(t.callable()) == 0 {
		return nil, nil
	}
	if !strings.Contains(template, "tools") {
		return nil, Bad(names.Of("WithTools"), "the model's chat template knows no tools")
	}
	type function struct {
		Name        string         `json:"name"`
		Description string         `json:"description,omitzero"`
		Parameters  jsontext.Value `json:"parameters"`
	}
	type entry struct {
		Type     string   `json:"type"`
		Function function `json:"function"`
	}
	var entries []entry
	for _, given := range t.List {
		entries = append(entries, entry{"function", function{given.Name, given.Description, given.schema()}})
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return nil, Bad(names.Of("WithTools"), "%v", err)
	}
	return []mlx.GenerateOption{mlx.WithTools(data)}, nil
}

func (t Tool) schema() jsontext.Value {
	if len(t.Parameters) == 0 {
		return jsontext.Value(`{"type":"object","properties":{}}`)
	}
	return t.Parameters
}
