package turn

import (
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// Format asks for JSON, as several APIs write it.
type Format struct {
	Type   string // "text", "json_object" or "json_schema"; "" is text
	Schema jsontext.Value
	Loose  bool   // what a grammar cannot keep of the schema may be left out
	Field  string // where the request has it
}

// schema is what the text has to follow; nil for any text.
func (f Format) schema() (jsontext.Value, error) {
	switch f.Type {
	case "", "text":
		return nil, nil
	case "json_object":
		return jsontext.Value(`{"type":"object"}`), nil
	case "json_schema":
		if len(f.Schema) == 0 {
			return nil, Bad(f.Field, "there is no schema")
		}
		return f.Schema, nil
	}
	return nil, Bad(f.Field+".type", "%q; there are text, json_object and json_schema", f.Type)
}

// callMark is the mark before calls for which a grammar can be made: JSON between marks.
const callMark = "<tool_call>"

// strictCalls reports whether the model is free to call tools, and some of their arguments are to follow their schemas.
func (t *Tools) strictCalls() bool {
	return t.Mode != Required && slices.ContainsFunc(t.callable(), func(given Tool) bool { return given.Strict })
}

// enforceable reports whether a grammar for calls can be made for a model with this template.
func enforceable(template string) bool {
	marks, err := segment.Infer(template, func(string) bool { return false })
	return err == nil && marks.ToolStart == callMark
}

// grammarFor is what the answer has to follow: a format, a call that is required, or, with a format and tools, either. With a
// call required there is no text that could have a format. Where strict tools may be called, the text is free up to a call.
// left are the keywords of the format's schema that the grammar does not enforce.
func grammarFor(t *Tools, format Format, template string, names Names) (options []mlx.GenerateOption, left []string, err error) {
	schema, err := format.schema()
	if err != nil {
		return nil, nil, err
	}
	calls := t.Mode == Required || schema != nil && len(t.callable()) > 0
	if !calls && schema == nil {
		if !t.strictCalls() || !enforceable(template) {
			return nil, nil, nil
		}
		lark, err := t.lark()
		if err != nil {
			return nil, nil, err
		}
		return []mlx.GenerateOption{mlx.WithConstraint(mlx.Grammar(freeText + lark))}, nil, nil
	}
	if schema != nil {
		if schema, left, err = schemaFor(schema, "#", format.Loose); err != nil {
			return nil, nil, Bad(names.Of("JSONSchema"), "%v", err)
		}
	}
	if !calls {
		return []mlx.GenerateOption{mlx.WithConstraint(mlx.JSONSchema(guided(schema, looseOneOf)))}, left, nil
	}
	field := names.Of("ToolChoice")
	if t.Mode != Required {
		field = names.Of("JSONSchema")
	}
	if !enforceable(template) {
		return nil, nil, Bad(field, "a grammar for calls is there only for models that write them as JSON in <tool_call>")
	}
	lark, err := t.lark()
	if err != nil {
		return nil, nil, err
	}
	if t.Mode == Required {
		return []mlx.GenerateOption{mlx.WithConstraint(mlx.Grammar("start: calls\n" + lark))}, nil, nil
	}
	return []mlx.GenerateOption{mlx.WithConstraint(mlx.Grammar("start: calls | text\n" + lark + "text: %json " + string(guided(schema, spacing)) + "\n"))}, left, nil
}

// freeText is the start of a grammar in which a text may say anything and then call. What comes before the first call ends with
// the mark that begins it: a lexeme with a suffix, because the mark's own beginning is text as well.
const freeText = `start: TEXT? | first more
TEXT: /(.|\n)+/ & ~/(.|\n)*<tool_call>(.|\n)*/
first: before "\n" call "\n</tool_call>"
before[suffix="<tool_call>"]: /(.|\n)*/
`

// lark is a grammar of calls, as llguidance reads it.
func (t *Tools) lark() (string, error) {
	var calls []any
	parameters := map[string]jsontext.Value{}
	for i, given := range t.callable() {
		name := fmt.Sprintf("tool%d", i)
		schema := jsontext.Value(`{"type":"object"}`) // of calls whose tool is not strict
		if given.Strict || !t.strictCalls() {
			var err error
			if schema, _, err = schemaFor(given.schema(), "#/$defs/"+name, !given.Strict); err != nil {
				return "", Bad(given.Field+".parameters", "%v", err)
			}
		}
		parameters[name] = schema
		calls = append(calls, map[string]any{
			"type": "object",
			"properties": orderedPair{
				"name", map[string]any{"const": given.Name},
				"arguments", map[string]any{"$ref": "#/$defs/" + name},
			},
			"required": []string{"name", "arguments"}, "additionalProperties": false,
		})
	}
	schema, err := json.Marshal(map[string]any{"anyOf": calls, "$defs": parameters}, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	more := `""`
	if !t.OneCall {
		more = `("\n" one)*`
	}
	return "calls: one more\nmore: " + more + "\none: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json " + string(guided(schema, spacing)) + "\n", nil
}

// orderedPair is a JSON object of two fields in this order: calls begin with their name.
type orderedPair struct {
	first  string
	one    any
	second string
	two    any
}

// MarshalJSONTo writes the object.
func (p orderedPair) MarshalJSONTo(e *jsontext.Encoder) error {
	if err := e.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for _, field := range []struct {
		name  string
		value any
	}{{p.first, p.one}, {p.second, p.two}} {
		if err := e.WriteToken(jsontext.String(field.name)); err != nil {
			return err
		}
		if err := json.MarshalEncode(e, field.value); err != nil {
			return err
		}
	}
	return e.WriteToken(jsontext.EndObject)
}
