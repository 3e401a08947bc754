package segment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
)

// parseJSON reads {"name": ..., "arguments": {...}}. The order of the arguments is kept.
func parseJSON(text string) ([]engine.ToolCall, error) {
	call, err := parseNamed(json.RawMessage(text))
	if err != nil {
		return nil, err
	}
	call.ID = ""
	return []engine.ToolCall{call}, nil
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

var mistralHead = regexp.MustCompile(`^\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?\[ARGS\]\s*`)

// parseMistral reads [{"name": ..., "arguments": {...}}], or name[ARGS]{...}, more of which may follow.
func parseMistral(text string) ([]engine.ToolCall, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil, err
		}
		var calls []engine.ToolCall
		for _, item := range list {
			one, err := parseNamed(item)
			if err != nil {
				return nil, err
			}
			calls = append(calls, one)
		}
		if len(calls) == 0 {
			return nil, errors.New("no function is called")
		}
		return calls, nil
	}
	var calls []engine.ToolCall
	for rest := text; strings.TrimSpace(rest) != ""; {
		head := mistralHead.FindStringSubmatch(rest)
		if head == nil {
			return nil, errors.New("no function is called")
		}
		arguments, after, err := firstJSON(rest[len(head[0]):])
		if err != nil {
			return nil, err
		}
		calls = append(calls, engine.ToolCall{Type: "function", Function: engine.FunctionCall{Name: head[1], Arguments: arguments}})
		rest = strings.TrimPrefix(strings.TrimLeft(after, " \n\t\r"), "[TOOL_CALLS]")
	}
	if len(calls) == 0 {
		return nil, errors.New("no function is called")
	}
	return calls, nil
}

// parseLlama reads {"name": ..., "parameters": {...}}; several follow each other, separated by semicolons or newlines.
func parseLlama(text string) ([]engine.ToolCall, error) {
	var calls []engine.ToolCall
	for rest := text; strings.Trim(rest, "; \n\t\r") != ""; {
		one, after, err := firstJSON(strings.TrimLeft(rest, "; \n\t\r"))
		if err != nil {
			return nil, err
		}
		call, err := parseNamed(one)
		if err != nil {
			return nil, err
		}
		calls = append(calls, call)
		rest = after
	}
	if len(calls) == 0 {
		return nil, errors.New("no function is called")
	}
	return calls, nil
}

// firstJSON is the JSON value at the beginning of a text, and what follows it.
func firstJSON(text string) (value json.RawMessage, after string, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&value); err != nil {
		return nil, "", err
	}
	return value, text[d.InputOffset():], nil
}

// parseNamed reads an object with a name and arguments, which may be called parameters, or be JSON in a string.
func parseNamed(data json.RawMessage) (engine.ToolCall, error) {
	var call struct {
		ID         any             `json:"id"` // of models that give none it may be anything
		Name       string          `json:"name"`
		Arguments  json.RawMessage `json:"arguments"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if err := json.Unmarshal(data, &call); err != nil {
		return engine.ToolCall{}, err
	}
	arguments := call.Arguments
	if len(arguments) == 0 {
		arguments = call.Parameters
	}
	var quoted string
	if json.Unmarshal(arguments, &quoted) == nil {
		arguments = json.RawMessage(quoted)
	}
	switch {
	case call.Name == "":
		return engine.ToolCall{}, errors.New("a tool call has no name")
	case len(bytes.TrimSpace(arguments)) == 0 || string(arguments) == "null":
		arguments = json.RawMessage("{}")
	case bytes.TrimSpace(arguments)[0] != '{' || !json.Valid(arguments):
		return engine.ToolCall{}, fmt.Errorf("the arguments of %s are no object", call.Name)
	}
	id, _ := call.ID.(string)
	return engine.ToolCall{ID: id, Type: "function", Function: engine.FunctionCall{Name: call.Name, Arguments: arguments}}, nil
}
