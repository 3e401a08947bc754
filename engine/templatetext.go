package engine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"unicode/utf8"
)

// reservedArguments are the names that a chat template's argument cannot have: the engines set these themselves, and mlx-lm's
// apply_chat_template, which renders templates for the python engine, has parameters of these names.
var reservedArguments = []string{
	"self", "conversation", "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize", "padding", "truncation",
	"max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens",
}

// ValidateTemplate checks the options that a chat template gets: tools, and arguments by name.
func (o GenerateOptions) ValidateTemplate() error {
	bad := func(option, format string, args ...any) error {
		return &OptionError{Option: option, Reason: fmt.Sprintf(format, args...)}
	}
	if len(o.Tools) > 0 {
		if !utf8.Valid(o.Tools) {
			return notUTF8("Tools")
		}
		var tools []map[string]any
		if err := json.Unmarshal(o.Tools, &tools); err != nil {
			return bad("Tools", "not a JSON list of objects: %v", err)
		}
	}
	// JSON comes first: it refuses arguments that contain themselves, which validText would follow.
	if _, err := json.Marshal(o.TemplateArguments); err != nil {
		return bad("TemplateArguments", "cannot be written as JSON: %v", err)
	}
	// JSON replaces what is not UTF-8 silently.
	if !validText(reflect.ValueOf(o.TemplateArguments), 0) {
		return notUTF8("TemplateArguments")
	}
	for name := range o.TemplateArguments {
		if slices.Contains(reservedArguments, name) {
			return bad("TemplateArguments", "%q is set by the engine and cannot be an argument", name)
		}
	}
	return nil
}

// deepest is how far validText follows values into each other. JSON cannot be made of what is deeper.
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
