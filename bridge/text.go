package bridge

import (
	"fmt"
	"reflect"
	"unicode/utf8"

	"forge.lthn.ai/core/go-mlx/engine"
)

// checkTemplateText finds text that is not UTF-8 in what a chat template gets. JSON would replace it silently in places, and a
// json.RawMessage would carry it on.
func checkTemplateText(messages []engine.Message, o engine.GenerateOptions) error {
	if !utf8.Valid(o.Tools) {
		return fmt.Errorf("option Tools: %w", engine.ErrInvalidUTF8)
	}
	if !validText(reflect.ValueOf(o.TemplateArguments), 0) {
		return fmt.Errorf("option TemplateArguments: %w", engine.ErrInvalidUTF8)
	}
	for i := range messages {
		if !validText(reflect.ValueOf(messages[i]), 0) {
			return fmt.Errorf("message %d: %w", i, engine.ErrInvalidUTF8)
		}
	}
	return nil
}

// deepest is how far validText follows values into each other. JSON could not be made of what is deeper, or points to itself.
const deepest = 1000

// validText reports whether all text in a value, however deep, is UTF-8.
func validText(v reflect.Value, depth int) bool {
	if depth > deepest {
		return true
	}
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return v.IsNil() || validText(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Kind() == reflect.Array || utf8.Valid(v.Bytes()) || v.Type() == reflect.TypeFor[[]byte]()
		}
		for i := range v.Len() {
			if !validText(v.Index(i), depth+1) {
				return false
			}
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			if !validText(entry.Key(), depth+1) || !validText(entry.Value(), depth+1) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && !validText(v.Field(i), depth+1) {
				return false
			}
		}
	}
	return true
}

// checkIDs refuses token ids that the model does not have.
func (m *Model) checkIDs(ids []int32) error {
	size := m.Info().VocabSize
	for _, id := range ids {
		if id < 0 || size > 0 && int(id) >= size {
			return &engine.OptionError{Option: "ids", Reason: fmt.Sprintf("the vocabulary of %d tokens has no id %d", size, id)}
		}
	}
	return nil
}
