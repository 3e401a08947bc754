package turn

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// Format is a wish for JSON, as several APIs write it.
type Format struct {
	Type   string // "text", "json_object" or "json_schema"; "" is text
	Schema jsontext.Value
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

// grammarFor is what the answer has to follow: a format, a call that is required, or, with a format and tools, either. With a
// call required there is no text that could have a format.
func grammarFor(t *Tools, schema jsontext.Value, template string, names Names) ([]mlx.GenerateOption, error) {
	calls := t.Mode == Required || schema != nil && len(t.callable()) > 0
	switch {
	case !calls && schema == nil:
		return nil, nil
	}
	var err error
	if schema != nil {
		if schema, err = schemaFor(schema, "#"); err != nil {
			return nil, Bad(names.Of("JSONSchema"), "%v", err)
		}
	}
	if !calls {
		return []mlx.GenerateOption{mlx.WithJSONSchema(schema)}, nil
	}
	field := names.Of("ToolChoice")
	if t.Mode != Required {
		field = names.Of("JSONSchema")
	}
	marks, err := segment.Infer(template, func(string) bool { return false })
	if err != nil {
		return nil, Bad(field, "%v", err)
	}
	if marks.ToolStart != "<tool_call>" {
		return nil, Bad(field, "a grammar for calls is there only for models that write them as JSON in <tool_call>")
	}
	lark, err := t.lark()
	if err != nil {
		return nil, Bad(names.Of("Tools"), "%v", err)
	}
	if t.Mode == Required {
		return []mlx.GenerateOption{mlx.WithGrammar("start: calls\n" + lark)}, nil
	}
	return []mlx.GenerateOption{mlx.WithGrammar("start: calls | text\n" + lark + "text: %json " + string(withSpacing(schema)) + "\n")}, nil
}

// lark is a grammar of calls, as llguidance reads it.
func (t *Tools) lark() (string, error) {
	var calls []any
	parameters := map[string]jsontext.Value{}
	for i, given := range t.callable() {
		name := fmt.Sprintf("tool%d", i)
		schema, err := schemaFor(given.schema(), "#/$defs/"+name)
		if err != nil {
			return "", err
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
	more := ""
	if !t.OneCall {
		more = ` ("\n" one)*`
	}
	return "calls: one" + more + "\none: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json " + string(withSpacing(schema)) + "\n", nil
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
