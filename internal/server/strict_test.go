package server

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The model calls get_weather with a city, by heart. A strict schema that has none of that is followed nevertheless, on both
// engines; without "strict" the model writes what it knows; and what is no call stays as free as it was.
func TestStrictToolsFollowTheirSchemaWithAutomaticChoice(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	type call struct {
		Function struct{ Name, Arguments string }
	}
	ask := func(engine, content, tool, more string) (text string, calls []call) {
		t.Helper()
		a := post(t, s, "/v1/chat/completions", `{"model": "`+engine+`", "messages": [{"role": "user", "content": "`+content+`"}], "tools": [`+tool+`]`+more+`}`)
		require.Equal(t, 200, a.Code, a.Body.String())
		require.Empty(t, a.Header().Get(headerIgnored))
		var out struct {
			Choices []struct {
				Message struct {
					Content   string
					ToolCalls []call `json:"tool_calls"`
				}
			}
		}
		require.NoError(t, json.Unmarshal(a.Body.Bytes(), &out))
		return out.Choices[0].Message.Content, out.Choices[0].Message.ToolCalls
	}
	tool := func(strict, schema string) string {
		return `{"type": "function", "function": {"name": "get_weather", "description": "The weather", "strict": ` + strict + `, "parameters": ` + schema + `}}`
	}
	const city = `{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}`
	const number = `{"type": "object", "properties": {"n": {"type": "integer", "minimum": 10, "maximum": 99}}, "required": ["n"], "additionalProperties": false}`
	for _, engine := range []string{"native", "python"} {
		t.Run(engine, func(t *testing.T) {
			_, calls := ask(engine, "What is the weather in Lisbon?", tool("false", city), "")
			require.Len(t, calls, 1)
			require.JSONEq(t, `{"city": "Lisbon"}`, calls[0].Function.Arguments)
			_, strict := ask(engine, "What is the weather in Lisbon?", tool("true", city), "")
			require.Len(t, strict, 1)
			require.JSONEq(t, `{"city": "Lisbon"}`, strict[0].Function.Arguments)

			_, calls = ask(engine, "What is the weather in Lisbon?", tool("true", number), `, "parallel_tool_calls": false`)
			require.Len(t, calls, 1)
			require.Equal(t, "get_weather", calls[0].Function.Name)
			require.Regexp(t, `^\{"n": ?[0-9]{2}\}$`, calls[0].Function.Arguments)

			free, none := ask(engine, "Hello", tool("false", number), `, "max_tokens": 60`)
			require.Empty(t, none)
			text, none := ask(engine, "Hello", tool("true", number), `, "max_tokens": 60`)
			require.Empty(t, none)
			require.Equal(t, free, text, "a text is as free as without strict tools")
			require.NotEmpty(t, strings.TrimSpace(text))

			a := post(t, s, "/v1/chat/completions", `{"model": "`+engine+`", "messages": [{"role": "user", "content": "Describe a harbour"}], "max_tokens": 300,
				"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": `+number+`}}}`)
			require.Equal(t, 200, a.Code, a.Body.String())
			require.Regexp(t, `"content":"\{\\"n\\":[0-9]{2}\}"`, a.Body.String())
			_, calls = ask(engine, "Hello", tool("true", number), `, "tool_choice": "required", "parallel_tool_calls": false`)
			require.Len(t, calls, 1)
			require.Regexp(t, `^\{"n": ?[0-9]{2}\}$`, calls[0].Function.Arguments)
		})
	}
}
