package turn

import (
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
		got, err := schemaFor([]byte(in), "#/$defs/t")
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	_, err := schemaFor([]byte(`{"a":`), "#")
	require.Error(t, err)
}
