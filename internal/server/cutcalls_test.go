package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A call that the limit of tokens cuts off, wherever, shows nothing of the model's notation: it is there from its name on.
func TestCallsThatAreCutOffAreNoText(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	const parameters = `{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}`
	function := `{"type": "function", "name": "get_weather", "parameters": ` + parameters + `}`
	requests := []struct{ path, name, body string }{
		{"/v1/chat/completions", "max_tokens", athens + `, "tools": [` + tool("get_weather") + `], "tool_choice": "required"`},
		{"/v1/chat/completions", "max_tokens", athens + `, "tools": [` + tool("get_weather") + `], "reasoning_effort": "none", "stream": true`},
		{"/v1/responses", "max_output_tokens", `"input": "What is the weather in Athens?", "tools": [` + function + `], "tool_choice": "required"`},
		{"/v1/responses", "max_output_tokens", `"input": "What is the weather in Athens?", "tools": [` + function + `], "reasoning": {"effort": "none"}, "stream": true`},
		{"/v1/messages", "max_tokens", athens + `, "tools": [{"name": "get_weather", "input_schema": ` + parameters + `}], "tool_choice": {"type": "any"}`},
		{"/v1/messages", "max_tokens", athens + `, "tools": [{"name": "get_weather", "input_schema": ` + parameters + `}], "stream": true`},
		{"/api/chat", "num_predict", athens + `, "tools": [` + tool("get_weather") + `], "think": false`},
	}
	for _, model := range []string{"native", "python"} {
		for _, q := range requests {
			for n := 2; n <= 21; n++ { // of the 22 tokens of the whole call
				limit := fmt.Sprintf(`"%s": %d`, q.name, n)
				if q.name == "num_predict" {
					limit = `"options": {` + limit + `}`
				}
				w := post(t, s, q.path, fmt.Sprintf(`{"model": %q, %s, %s}`, model, limit, q.body))
				require.Equal(t, 200, w.Code, w.Body.String())
				require.NotContains(t, w.Body.String(), `tool_call\u003e`)
				require.NotContains(t, w.Body.String(), "tool_call>", "%s, %d tokens: %s", q.path, n, w.Body)
				called := strings.Contains(w.Body.String(), `"name":"get_weather","input":`) || strings.Contains(w.Body.String(), `"name":"get_weather","arguments":`)
				require.Equal(t, n >= 10, called, "%s %s, %d tokens: %s", model, q.path, n, w.Body)
			}
		}
	}
}

// A stop string that ends a call ends the answer, and there is no call that a client would make.
func TestAStopStringInACallIsNoCall(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	for _, model := range []string{"native", "python"} {
		for stop, begun := range map[string]bool{`\",`: false, "Athens": true} {
			for _, stream := range []bool{false, true} {
				w := post(t, s, "/v1/chat/completions", fmt.Sprintf(`{"model": %q, "stop": "%s", "reasoning_effort": "none", "stream": %t, %s, "tools": [%s]}`, model, stop, stream, athens, tool("get_weather")))
				require.Equal(t, 200, w.Code, w.Body.String())
				require.Contains(t, w.Body.String(), `"finish_reason":"stop"`, "%s, %s: %s", model, stop, w.Body)
				require.NotContains(t, w.Body.String(), "tool_call>")
				require.Equal(t, begun, strings.Contains(w.Body.String(), `"name":"get_weather"`), "%s, %s: %s", model, stop, w.Body)
			}
		}
	}
}
