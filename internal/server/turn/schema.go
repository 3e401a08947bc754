package turn

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// formats are the formats of strings that grammars can enforce. JSON Schema says that others are ignored; a grammar would refuse them.
var formats = []string{"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"}

// beyond are the keywords of JSON Schema that grammars cannot enforce, with the values at which they demand nothing.
var beyond = map[string][]string{
	"not": nil, "if": nil, "then": nil, "else": nil, "contains": nil, "minContains": {"0"}, "maxContains": nil, "uniqueItems": {"false"},
	"dependentRequired": {"{}"}, "dependentSchemas": {"{}"}, "dependencies": {"{}"}, "propertyNames": {"{}", "true", `{"type":"string"}`},
	"unevaluatedItems": {"{}", "true"}, "unevaluatedProperties": {"{}", "true"}, "$recursiveRef": nil, "$dynamicRef": nil,
	"$recursiveAnchor": {"false"}, "$dynamicAnchor": nil,
}

// lookAround matches what JavaScript's regular expressions have and those of grammars lack: look-ahead, look-behind and references to
// groups.
var lookAround = regexp.MustCompile(`\(\?<?[=!]|(?:^|[^\\])(?:\\\\)*\\(?:[1-9]|k<)`)

// schemaFor makes a schema fit for a grammar: formats that nobody knows are left out, and references to its root are changed to
// its place in a larger one. What a grammar cannot enforce is an error, or, if the schema is loose, left out and named in left.
func schemaFor(schema jsontext.Value, root string, loose bool) (_ jsontext.Value, left []string, err error) {
	var out bytes.Buffer
	d := jsontext.NewDecoder(bytes.NewReader(schema))
	c := &schemaCopy{from: d, to: jsontext.NewEncoder(&out), root: root, loose: loose}
	if err := c.schema(); err != nil {
		return nil, nil, err
	}
	return jsontext.Value(bytes.TrimSpace(out.Bytes())), c.left, nil
}

type schemaCopy struct {
	from  *jsontext.Decoder
	to    *jsontext.Encoder
	root  string // "#" for a schema that stays by itself
	loose bool
	left  []string
}

// leave drops a keyword that a grammar cannot enforce.
func (c *schemaCopy) leave(name string) error {
	if !c.loose {
		return fmt.Errorf("a grammar cannot keep %q, and the schema is to be followed strictly", name)
	}
	if !slices.Contains(c.left, name) {
		c.left = append(c.left, name)
	}
	return nil
}

func (c *schemaCopy) token() error {
	token, err := c.from.ReadToken()
	if err != nil {
		return err
	}
	return c.to.WriteToken(token)
}

func (c *schemaCopy) value() error {
	value, err := c.from.ReadValue()
	if err != nil {
		return err
	}
	return c.to.WriteValue(value)
}

// schema copies a schema, or a list of them; anything else as it is.
func (c *schemaCopy) schema() error {
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
		var o schemaObject
		if err := c.fields(func(name string) error { return c.field(name, &o) }); err != nil {
			return err
		}
		if o.pattern && !o.format { // a format that the grammar knows says what such patterns spell out
			return c.leave("pattern")
		}
		return nil
	}
	return c.value()
}

// schemaObject is what the keywords of one schema have to know of each other.
type schemaObject struct {
	pattern bool // a pattern that no grammar can enforce was left out
	format  bool // a format that grammars can enforce
}

// fields copies an object; each copies the value after a name.
func (c *schemaCopy) fields(each func(name string) error) error {
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

func (c *schemaCopy) named(name string, do func() error) error {
	if err := c.to.WriteToken(jsontext.String(name)); err != nil {
		return err
	}
	return do()
}

// field copies a keyword of a schema.
func (c *schemaCopy) field(name string, o *schemaObject) error {
	if neutral, found := beyond[name]; found {
		value, err := c.from.ReadValue()
		if err != nil {
			return err
		}
		value = value.Clone()
		if err := value.Compact(); err != nil {
			return err
		}
		if slices.Contains(neutral, string(value)) {
			return nil
		}
		return c.leave(name)
	}
	switch name {
	case "$id":
		if c.root != "#" { // references would look for what they name in a document of this name
			return c.from.SkipValue()
		}
		return c.named(name, c.value)
	case "const", "enum", "default", "example", "examples", "required":
		return c.named(name, c.value)
	case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas":
		if c.from.PeekKind() != '{' {
			return c.named(name, c.value)
		}
		return c.named(name, func() error {
			return c.fields(func(property string) error { return c.named(property, c.schema) })
		})
	case "format", "$ref", "pattern":
		if c.from.PeekKind() != '"' {
			return c.named(name, c.value)
		}
		token, err := c.from.ReadToken()
		if err != nil {
			return err
		}
		text := token.String()
		switch {
		case name == "format" && !slices.Contains(formats, text):
			return nil
		case name == "format":
			o.format = true
		case name == "pattern" && lookAround.MatchString(text):
			o.pattern = true
			return nil
		}
		if rest, local := strings.CutPrefix(text, "#"); name == "$ref" && local {
			text = c.root + rest
		}
		return c.named(name, func() error { return c.to.WriteToken(jsontext.String(text)) })
	}
	return c.named(name, c.schema)
}

const (
	// looseOneOf: of oneOf a grammar can say that one of the schemas holds, not that no other one does.
	looseOneOf = `"whitespace_flexible":false,"coerce_one_of":true`
	// spacing is the only blank space between the parts of JSON: without it a model may put spaces for ever.
	spacing = looseOneOf + `,"item_separator":", ","key_separator":": "`
)

// guided tells a grammar how to read a schema, unless the schema says so itself.
func guided(schema jsontext.Value, how string) jsontext.Value {
	rest, ok := bytes.CutPrefix(bytes.TrimSpace(schema), []byte("{"))
	if !ok || bytes.Contains(schema, []byte(`"x-guidance"`)) {
		return schema
	}
	how = `{"x-guidance":{` + how + `}`
	if bytes.Equal(bytes.TrimSpace(rest), []byte("}")) {
		return jsontext.Value(how + "}")
	}
	return jsontext.Value(how + "," + string(rest))
}
