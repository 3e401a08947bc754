package turn

import (
	"bytes"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// formats are those of strings that grammars know. JSON Schema says that others are ignored; a grammar would refuse them.
var formats = []string{"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"}

// schemaFor makes a schema fit for a grammar: formats that nobody knows are left out, and references to its root go to where
// it stands in a larger one.
func schemaFor(schema jsontext.Value, root string) (jsontext.Value, error) {
	var out bytes.Buffer
	d := jsontext.NewDecoder(bytes.NewReader(schema))
	if err := (schemaCopy{d, jsontext.NewEncoder(&out), root}).schema(); err != nil {
		return nil, err
	}
	return jsontext.Value(bytes.TrimSpace(out.Bytes())), nil
}

type schemaCopy struct {
	from *jsontext.Decoder
	to   *jsontext.Encoder
	root string // "#" for a schema that stays by itself
}

func (c schemaCopy) token() error {
	token, err := c.from.ReadToken()
	if err != nil {
		return err
	}
	return c.to.WriteToken(token)
}

func (c schemaCopy) value() error {
	value, err := c.from.ReadValue()
	if err != nil {
		return err
	}
	return c.to.WriteValue(value)
}

// schema copies a schema, or a list of them; anything else as it is.
func (c schemaCopy) schema() error {
	switch c.from.PeekKind() {
	case '[':
		if err := c.token(); err != nil {
			return err
		}
		for c.from.PeekKind() != ']' {
			if err := c.schema(); err != nil {
				return err
			}
		}
		return c.token()
	case '{':
		return c.fields(c.field)
	}
	return c.value()
}

// fields copies an object; each does what stands behind a name.
func (c schemaCopy) fields(each func(name string) error) error {
	if err := c.token(); err != nil {
		return err
	}
	for c.from.PeekKind() != '}' {
		token, err := c.from.ReadToken()
		if err != nil {
			return err
		}
		if err := each(token.String()); err != nil {
			return err
		}
	}
	return c.token()
}

func (c schemaCopy) named(name string, do func() error) error {
	if err := c.to.WriteToken(jsontext.String(name)); err != nil {
		return err
	}
	return do()
}

// field copies a keyword of a schema.
func (c schemaCopy) field(name string) error {
	switch name {
	case "const", "enum", "default", "example", "examples", "required":
		return c.named(name, c.value)
	case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas":
		if c.from.PeekKind() != '{' {
			return c.named(name, c.value)
		}
		return c.named(name, func() error {
			return c.fields(func(property string) error { return c.named(property, c.schema) })
		})
	case "format", "$ref":
		if c.from.PeekKind() != '"' {
			return c.named(name, c.value)
		}
		token, err := c.from.ReadToken()
		if err != nil {
			return err
		}
		text := token.String()
		if name == "format" && !slices.Contains(formats, text) {
			return nil
		}
		if rest, local := strings.CutPrefix(text, "#"); name == "$ref" && local {
			text = c.root + rest
		}
		return c.named(name, func() error { return c.to.WriteToken(jsontext.String(text)) })
	}
	return c.named(name, c.schema)
}

// withSpacing gives a schema the only blank space between the parts of JSON: without it a model may put spaces for ever.
func withSpacing(schema jsontext.Value) jsontext.Value {
	const spacing = `"x-guidance":{"whitespace_flexible":false,"item_separator":", ","key_separator":": "}`
	rest, ok := bytes.CutPrefix(bytes.TrimSpace(schema), []byte("{"))
	if !ok || bytes.Contains(schema, []byte(`"x-guidance"`)) {
		return schema
	}
	if bytes.Equal(bytes.TrimSpace(rest), []byte("}")) {
		return jsontext.Value("{" + spacing + "}")
	}
	return jsontext.Value("{" + spacing + "," + string(rest))
}
