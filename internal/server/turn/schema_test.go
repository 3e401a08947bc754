package turn

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSchemasForGrammars(t *testing.T) {
	for in, want := range map[string]string{
		`{"type":"string","format":"phone"}`:                                                                       `{"type":"string"}`,
		`{"type":"string","format":"date"}`:                                                                        `{"type":"string","format":"date"}`,
		`{"properties":{"format":{"type":"string","format":"zip"},"z":{}}}`:                                        `{"properties":{"format":{"type":"string"},"z":{}}}`,
		`{"const":{"format":"zip","$ref":"#"}}`:                                                                    `{"const":{"format":"zip","$ref":"#"}}`,
		`{"anyOf":[{"$ref":"#/$defs/A"},{"$ref":"#"}],"$defs":{"A":{"format":"x","items":{"$ref":"http://a/b"}}}}`: `{"anyOf":[{"$ref":"#/$defs/t/$defs/A"},{"$ref":"#/$defs/t"}],"$defs":{"A":{"items":{"$ref":"http://a/b"}}}}`,
		`true`: `true`,
	} {
		got, left, err := schemaFor([]byte(in), "#/$defs/t", false)
		require.Empty(t, left)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	_, _, err := schemaFor([]byte(`{"a":`), "#", true)
	require.Error(t, err)
}

// What a grammar cannot keep is an error of a schema that is to be followed strictly, and left out of others.
func TestWhatGrammarsCannotKeep(t *testing.T) {
	for in, want := range map[string]struct{ schema, left string }{
		`{"type":"array","uniqueItems":true,"items":{"not":{}}}`: {`{"type":"array","items":{}}`, "uniqueItems not"},
		`{"type":"string","pattern":"^(?!a)b"}`:                  {`{"type":"string"}`, "pattern"},
		`{"pattern":"(a)\\1","format":"zip"}`:                    {`{}`, "pattern"},
		`{"properties":{"not":{"if":true}}}`:                     {`{"properties":{"not":{}}}`, "if"},
	} {
		got, left, err := schemaFor([]byte(in), "#", true)
		require.NoError(t, err)
		require.Equal(t, want.schema, string(got))
		require.Equal(t, want.left, strings.Join(left, " "))
		_, _, err = schemaFor([]byte(in), "#", false)
		require.ErrorContains(t, err, `a grammar cannot keep "`)
	}
	// These say nothing, or what a format says as well.
	for in, want := range map[string]string{
		`{"uniqueItems":false,"propertyNames":{ "type": "string" },"minContains":0}`: `{}`,
		`{"pattern":"^(?!\\.)a","format":"email"}`:                                   `{"format":"email"}`,
		`{"pattern":"^\\\\1(?:a)(?P<n>b)$"}`:                                         `{"pattern":"^\\\\1(?:a)(?P<n>b)$"}`,
		`{"const":{"not":1},"enum":[{"if":2}]}`:                                      `{"const":{"not":1},"enum":[{"if":2}]}`,
	} {
		got, _, err := schemaFor([]byte(in), "#", false)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	got, _, err := schemaFor([]byte(`{"$id":"http://a/b","$ref":"#/$defs/A"}`), "#/$defs/t", false)
	require.NoError(t, err)
	require.Equal(t, `{"$ref":"#/$defs/t/$defs/A"}`, string(got))
}
