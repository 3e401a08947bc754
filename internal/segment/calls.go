package segment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// parseJSON reads {"name": ..., "arguments": {...}}. The order of the arguments is kept.
func parseJSON(text string) ([]engine.ToolCall, error) {
	var call engine.FunctionCall
	if err := json.Unmarshal([]byte(text), &call); err != nil {
		return nil, err
	}
	if call.Name == "" {
		return nil, errors.New("a tool call has no name")
	}
	if arguments := bytes.TrimSpace(call.Arguments); len(arguments) == 0 {
		call.Arguments = json.RawMessage("{}")
	} else if arguments[0] != '{' {
		return nil, fmt.Errorf("the arguments of %s are no object", call.Name)
	}
	return []engine.ToolCall{{Type: "function", Function: call}}, nil
}

var functionGemma = regexp.MustCompile(`(?s)call:(\w+)\{(.*)\}`)

// parseFunctionGemma reads call:name{key:value,key:<escape>text<escape>}.
func parseFunctionGemma(text string) ([]engine.ToolCall, error) {
	found := functionGemma.FindStringSubmatch(text)
	if found == nil {
		return nil, errors.New("no function is called")
	}
	const escape = "<escape>"
	var fields []string
	for rest := found[2]; rest != ""; {
		key, after, ok := strings.Cut(rest, ":")
		if !ok {
			return nil, fmt.Errorf("an argument of %s has no value", found[1])
		}
		var value any
		if quoted, is := strings.CutPrefix(after, escape); is {
			var inside string
			if inside, after, ok = strings.Cut(quoted, escape); !ok {
				return nil, fmt.Errorf("the argument %s of %s does not end", key, found[1])
			}
			value, rest = inside, strings.TrimPrefix(after, ",")
		} else {
			var bare string
			bare, rest, _ = strings.Cut(after, ",")
			value = json.RawMessage(bare)
			if !json.Valid([]byte(bare)) {
				value = bare
			}
		}
		data, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		fields = append(fields, string(name)+": "+string(data))
	}
	arguments := json.RawMessage("{" + strings.Join(fields, ", ") + "}")
	return []engine.ToolCall{{Type: "function", Function: engine.FunctionCall{Name: found[1], Arguments: arguments}}}, nil
}
