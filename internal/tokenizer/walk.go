package tokenizer

import (
	"bytes"
	"encoding/json"

	"github.com/go-json-experiment/json/jsontext"
)

// walkStrings copies a JSON value and changes its texts and keys; the order of keys and the numbers stay as they are.
func walkStrings(data json.RawMessage, change func(text string) string, out *[]byte) error {
	decoder := jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowDuplicateNames(true))
	var buffer bytes.Buffer
	encoder := jsontext.NewEncoder(&buffer, jsontext.AllowDuplicateNames(true))
	for decoder.PeekKind() != 0 {
		token, err := decoder.ReadToken()
		if err != nil {
			return err
		}
		if token.Kind() == '"' {
			token = jsontext.String(change(token.String()))
		}
		if err := encoder.WriteToken(token); err != nil {
			return err
		}
	}
	*out = bytes.TrimSpace(buffer.Bytes())
	return nil
}
