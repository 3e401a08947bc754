package modelfiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Unmarshal reads the JSON of model files as Python does: NaN and Infinity are taken for null, a byte order mark is passed over, and keys are
// taken as they are written, where encoding/json also takes those in other letters.
func Unmarshal(data []byte, into any) error {
	if err := checkEncoding(data); err != nil {
		return err
	}
	data = withoutNaN(bytes.TrimPrefix(data, []byte("\ufeff")))
	err := jsonv2.Unmarshal(data, into, jsonv1.DefaultOptionsV1(), jsonv2.MatchCaseInsensitiveNames(false))
	if wrong := (*jsonv1.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return wrongKind(wrong.Field, wrong.Value, wrong.Type)
	}
	return err
}

// CleanConfig is a config as encoding/json can read it: see Unmarshal, and without keys that it would take for others.
func CleanConfig(data []byte) ([]byte, error) {
	if err := checkEncoding(data); err != nil {
		return nil, err
	}
	data = withoutNaN(bytes.TrimPrefix(data, []byte("\ufeff")))
	var whole json.RawMessage // numbers of any size are JSON
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, err
	}
	return exactKeys(data)
}

// checkEncoding refuses what is not UTF-8, in which decoders would put other characters in the place of what they cannot read.
func checkEncoding(data []byte) error {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")):
		return fmt.Errorf("it is UTF-16: save it as UTF-8: %w", engine.ErrInvalidUTF8)
	case !utf8.Valid(data):
		return fmt.Errorf("save it as UTF-8: %w", engine.ErrInvalidUTF8)
	}
	return nil
}

// UnmarshalSettings is Unmarshal for files of settings, whose keys are in small letters: encoding/json would take others for them.
func UnmarshalSettings(data []byte, into any) error {
	data, err := CleanConfig(data)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// withoutNaN replaces what Python's json writes and JSON does not have.
func withoutNaN(data []byte) []byte {
	if !bytes.Contains(data, []byte("NaN")) && !bytes.Contains(data, []byte("Infinity")) {
		return data
	}
	out := make([]byte, 0, len(data))
	for inString, i := false, 0; i < len(data); {
		rest := data[i:]
		switch {
		case inString && rest[0] == '\\' && len(rest) > 1:
			out = append(out, rest[:2]...)
			i += 2
			continue
		case rest[0] == '"':
			inString = !inString
		case !inString:
			if n := notANumber(rest); n > 0 {
				out = append(out, "null"...)
				i += n
				continue
			}
		}
		out = append(out, rest[0])
		i++
	}
	return out
}

func notANumber(text []byte) int {
	for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(text, []byte(word)) {
			return len(word)
		}
	}
	return 0
}

// exactKeys drops keys with other characters than small letters of ASCII, which no setting of a config has, and to which encoding/json
// would give the meaning of the key in small letters: to capitals, and to two signs of Unicode that it takes for k and s. The last of several equal keys counts.
func exactKeys(data []byte) ([]byte, error) {
	switch trimmed := bytes.TrimSpace(data); {
	case bytes.HasPrefix(trimmed, []byte("{")):
		var object map[string]json.RawMessage
		if err := json.Unmarshal(data, &object); err != nil {
			return nil, err
		}
		for key, value := range object {
			if key != strings.ToLower(key) || strings.ContainsFunc(key, func(r rune) bool { return r >= utf8.RuneSelf }) {
				delete(object, key)
				continue
			}
			clean, err := exactKeys(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			object[key] = clean
		}
		return json.Marshal(object)
	case bytes.HasPrefix(trimmed, []byte("[")):
		var list []json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, err
		}
		for i, value := range list {
			clean, err := exactKeys(value)
			if err != nil {
				return nil, err
			}
			list[i] = clean
		}
		return json.Marshal(list)
	default:
		return wholeNumber(trimmed), nil
	}
}

// wholeNumber writes 2048.0 and 1e6 as whole numbers, which they are where Python counts with them.
func wholeNumber(value []byte) []byte {
	if len(value) == 0 || !bytes.ContainsAny(value[:1], "-0123456789") || !bytes.ContainsAny(value, ".eE") {
		return value
	}
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return value
	}
	return strconv.AppendInt(nil, int64(f), 10)
}

// UnmarshalConfig is json.Unmarshal for what CleanConfig made, with errors that name the setting and no type of Go.
func UnmarshalConfig(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	return wrongKind(wrong.Field, wrong.Value, wrong.Type)
}

func wrongKind(field, value string, should reflect.Type) error {
	if field == "" {
		field = "it"
	}
	return fmt.Errorf("%s is %s and should be %s", field, given(value), wanted(should))
}

func given(value string) string {
	switch kind, rest, _ := strings.Cut(value, " "); kind {
	case "object", "array":
		return "an " + kind
	case "number":
		if rest == "" {
			return "a number"
		}
		return "the number " + rest
	default:
		return "a " + kind
	}
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list or one of its values"
	}
	return "an object"
}
