package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func field[T any](t *testing.T, body, path string) T {
	t.Helper()
	var value any
	require.NoError(t, json.Unmarshal([]byte(body), &value))
	for step := range strings.SplitSeq(path, ".") {
		var i int
		if _, err := fmt.Sscan(step, &i); err == nil {
			value = value.([]any)[i]
			continue
		}
		value = value.(map[string]any)[step]
	}
	out, ok := value.(T)
	require.True(t, ok, "%s of %s", path, body)
	return out
}

// Gemma's template takes no system message after others and demands that user and assistant alternate. Clients send what they
// like.
func TestMessagesInAnyOrder(t *testing.T) {
	s := serve(t, Config{})
	for _, order := range []string{"su", "ssu", "us", "usu", "uu", "uuu", "suu", "uasu", "au", "sau", "uaau", "s", "ss", "usaus", "aau"} {
		for _, model := range []string{"chat", "domains"} {
			var messages []string
			for i, c := range order {
				role := map[rune]string{'s': "system", 'u': "user", 'a': "assistant"}[c]
				messages = append(messages, fmt.Sprintf(`{"role": %q, "content": "part %d"}`, role, i))
			}
			list := strings.Join(messages, ", ")
			for path, body := range map[string]string{
				"/v1/chat/completions": `{"model": %q, "max_tokens": 1, "messages": [%s]}`, "/v1/responses": `{"model": %q, "max_output_tokens": 1, "input": [%s]}`,
				"/v1/messages": `{"model": %q, "max_tokens": 1, "messages": [%s]}`, "/api/chat": `{"model": %q, "options": {"num_predict": 1}, "messages": [%s]}`,
			} {
				a := s.do("POST", path, fmt.Sprintf(body, model, list))
				require.Equal(t, 200, a.StatusCode, "%s %s %s: %s", path, model, order, a.body)
			}
		}
	}
	// Nothing of what was said is lost on the way: a template that leaves such a message out would count fewer tokens.
	for _, model := range []string{"chat", "domains"} {
		count := func(extra string) float64 {
			a := s.do("POST", "/v1/messages/count_tokens", fmt.Sprintf(`{"model": %q, "messages": [{"role": "user", "content": "Hello"}%s]}`, model, extra))
			return field[float64](t, a.body, "input_tokens")
		}
		require.Greater(t, count(`, {"role": "system", "content": "Be brief, and friendly to all who ask."}`), count("")+5, model)
	}
}

// What a template refuses for good is the client's error, in its words.
func TestATemplatesRefusalIsTheClientsError(t *testing.T) {
	s := serve(t, Config{})
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"model": "domains", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "x"}, {"role": "tool", "tool_call_id": "d", "content": "x"}]}`,
		"/v1/messages":         `{"model": "domains", "max_tokens": 1, "stream": true, "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}, {"type": "text", "text": "y"}]}]}`,
	} {
		a := s.do("POST", path, body)
		require.Equal(t, 400, a.StatusCode, a.body)
		require.Contains(t, a.body, "alternate")
		require.Contains(t, a.body, "messages")
	}
}

func TestPromptsThatAreTooLong(t *testing.T) {
	s := serve(t, Config{})
	long := strings.Repeat("word ", 5000)
	for path, c := range map[string][2]string{
		"/v1/chat/completions": {`{"model": "chat", "messages": [{"role": "user", "content": %q}]}`, "maximum context length is 4096 tokens"},
		"/v1/completions":      {`{"model": "chat", "prompt": %q}`, `"param":"prompt"`},
		"/v1/responses":        {`{"model": "chat", "input": %q}`, "context_length_exceeded"},
		"/v1/messages":         {`{"model": "chat", "max_tokens": 5, "messages": [{"role": "user", "content": %q}]}`, "prompt is too long: "},
		"/api/chat":            {`{"model": "chat", "messages": [{"role": "user", "content": %q}]}`, "prompt has"},
	} {
		a := s.do("POST", path, fmt.Sprintf(c[0], long))
		require.Equal(t, 400, a.StatusCode, path)
		require.Contains(t, a.body, c[1], path)
	}
}

// A field goes by the name of the API that was called.
func TestErrorsNameTheFieldOfTheirAPI(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range [][3]string{
		{"/v1/messages", `{"model": "chat", "max_tokens": 5, "stop_sequences": [""], "messages": [{"role": "user", "content": "x"}]}`, "stop_sequences"},
		{"/v1/responses", `{"model": "chat", "max_output_tokens": 0, "input": "x"}`, "max_output_tokens"},
		{"/v1/responses", `{"model": "chat", "input": "x", "text": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}}`, "text.format"},
		{"/v1/chat/completions", `{"model": "chat", "max_completion_tokens": 0, "messages": [{"role": "user", "content": "x"}]}`, "max_completion_tokens"},
		{"/api/chat", `{"model": "chat", "options": {"temperature": -1}, "messages": [{"role": "user", "content": "x"}]}`, "options.temperature"},
		{"/v1/completions", `{"model": "chat", "prompt": [[1, -1]]}`, "prompt"},
		{"/v1/embeddings", `{"model": "domains", "input": [[1], [99999999]]}`, "input[1]"},
		{"/v1/embeddings", `{"model": "chat", "input": [[]]}`, "input[0]"},
		{"/v1/embeddings", `{"model": "chat", "input": ["a", ""]}`, "input[1]"},
		{"/v1/embeddings", `{"model": "domains", "prompt_name": "query", "input": [[5]]}`, "input"},
		{"/api/chat", `{"model": "chat", "options": {"repeat_penalty": -1}, "messages": [{"role": "user", "content": "x"}]}`, "options.repeat_penalty"},
		{"/v1/responses", `{"model": "chat", "input": "x", "tool_choice": "required"}`, "tool_choice"},
		{"/v1/responses", `{"model": "chat", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}`, "input[0].content[0].type"},
		{"/v1/messages", `{"model": "chat", "max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]}]}`, "messages[0].content[0].type"},
		{"/v1/messages", `{"model": "chat", "max_tokens": 5, "top_k": -2, "messages": [{"role": "user", "content": "x"}]}`, "top_k"},
		{"/v1/detokenize", `{"model": "chat", "tokens": [1, -1]}`, "tokens[1]"},
		{"/v1/chat/completions", `{"model": "chat", "seed": 1.5, "messages": [{"role": "user", "content": "x"}]}`, "seed: not a whole number"},
		{"/v1/chat/completions", `{"model": "chat", ` + athens + `, "tools": [` + tool("get_weather") + `], "response_format": ` + format(lookAhead) + `}`, `"message":"response_format: `},
		{"/v1/responses", `{"model": "chat", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}], "text": {"format": {"type": "json_schema", "name": "x", "strict": true, "schema": ` + lookAhead + `}}}`, `"message":"text.format: `},
		{"/v1/chat/completions", `{"model": "chat", ` + athens + `, "tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object", "additionalProperties": false, "required": ["a"], "properties": {"a": ` + lookAhead + `}}}}], "response_format": ` + format(`{"type": "string"}`) + `}`, `"message":"tools`},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 400, a.StatusCode, a.body)
		require.Contains(t, a.body, c[2])
	}
}

// lookAhead is a schema that cannot be enforced.
const lookAhead = `{"type": "string", "pattern": "(?=a)b"}`

func format(schema string) string {
	return `{"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": ` + schema + `}}`
}

const athens = `"messages": [{"role": "user", "content": "What is the weather in Athens?"}]`

func tool(name string) string {
	return fmt.Sprintf(`{"type": "function", "function": {"name": %q, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}`, name)
}

// Only functions that were offered can be called.
func TestCallsOfWhatWasNotOfferedAreText(t *testing.T) {
	s := serve(t, Config{})
	for _, stream := range []bool{false, true} {
		for extra, called := range map[string]bool{
			``: false, `, "tools": []`: false, `, "tools": [` + tool("get_time") + `]`: false, `, "tools": [` + tool("get_weather") + `], "tool_choice": "none"`: false,
			`, "tools": [{"type": "web_search"}]`: false, `, "tools": [{"type": "web_search"}, ` + tool("get_weather") + `]`: true,
			`, "tools": [` + tool("get_weather") + `, ` + tool("get_time") + `], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_time"}}]}}`: false,
		} {
			a := s.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model": "chat", "stream": %t, "reasoning_effort": "none", %s%s}`, stream, athens, extra))
			require.Equal(t, 200, a.StatusCode, a.body)
			require.Equal(t, called, strings.Contains(a.body, `"tool_calls":[`), "%s: %s", extra, a.body)
			require.Equal(t, called, strings.Contains(a.body, `"finish_reason":"tool_calls"`), extra)
			if !called && !stream && !strings.Contains(extra, "get_time") {
				require.Contains(t, a.body, `<tool_call>\n{`, extra)
				require.Contains(t, a.body, `</tool_call>`)
			}
		}
	}
	a := s.do("POST", "/v1/chat/completions", `{"model": "chat", `+athens+`, "tools": [{"type": "web_search"}], "tool_choice": "required"}`)
	require.Equal(t, 400, a.StatusCode, a.body)
	require.Contains(t, a.body, `"param":"tool_choice"`)
}

// With a format and tools, the text has the format and calls are still possible; a call that is required leaves no text.
func TestAFormatGoesWithTools(t *testing.T) {
	s := serve(t, Config{})
	const format = `, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"n": {"enum": ["a", "b"]}}, "required": ["n"], "additionalProperties": false}}}`
	tools := `, "tools": [` + tool("get_weather") + `]`
	called := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 80, `+athens+tools+format+`}`)
	require.Contains(t, called.body, `{\"city\": \"Athens\"}`)
	text := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 80, "messages": [{"role": "user", "content": "Hello"}]`+tools+format+`, "logit_bias": {"7": -100}}`)
	require.Equal(t, 200, text.StatusCode, text.body)
	if strings.Contains(text.body, `"tool_calls"`) {
		require.Contains(t, text.body, `get_weather`)
	} else {
		require.Regexp(t, `^\{"n": "[ab]"\}$`, field[string](t, text.body, "choices.0.message.content"))
	}
	required := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 80, "messages": [{"role": "user", "content": "Hello"}], "tool_choice": "required", "parallel_tool_calls": false`+tools+format+`}`)
	require.Equal(t, "tool_calls", field[string](t, required.body, "choices.0.finish_reason"))
	require.NotRegexp(t, `\\n|\\t|  `, field[string](t, required.body, "choices.0.message.tool_calls.0.function.arguments"), "no blank space but the usual")
}

func TestABudgetOfThoughtIsKept(t *testing.T) {
	s := serve(t, Config{})
	for _, stream := range []bool{false, true} {
		a := s.do("POST", "/v1/messages", fmt.Sprintf(`{"model": "chat", "max_tokens": 200, "stream": %t, "thinking": {"type": "enabled", "budget_tokens": 4}, "messages": [{"role": "user", "content": "Hello"}]}`, stream))
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Empty(t, a.Header.Get(headerIgnored))
		require.Contains(t, a.body, `"type":"thinking"`, "the thought begins")
		require.NotContains(t, a.body, "offer", "and is closed before its end")
		require.NotContains(t, a.body, "think>")
		if !stream {
			require.Contains(t, field[string](t, a.body, "content.1.text"), "very small model")
			require.Equal(t, "A greeting", field[string](t, a.body, "content.0.thinking"))
		}
	}
	whole := s.do("POST", "/v1/messages", `{"model": "chat", "max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 1024}, "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, "A greeting. I greet back and offer help.", field[string](t, whole.body, "content.0.thinking"))
	short := s.do("POST", "/v1/messages", `{"model": "chat", "max_tokens": 4, "thinking": {"type": "enabled", "budget_tokens": 4}, "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, "max_tokens", field[string](t, short.body, "stop_reason"))
	// A model that does not think is not harmed by the request to think.
	a := s.do("POST", "/v1/messages", `{"model": "domains", "max_tokens": 4, "thinking": {"type": "enabled", "budget_tokens": 1024}, "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, "thinking.budget_tokens", a.Header.Get(headerIgnored))
	a = s.do("POST", "/v1/chat/completions", `{"model": "domains", "max_tokens": 4, "reasoning_effort": "high", "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, "reasoning_effort", a.Header.Get(headerIgnored))
}

func TestATrailingAssistantMessageGoesOn(t *testing.T) {
	s := serve(t, Config{})
	const messages = `[{"role": "user", "content": "Count to ten"}, {"role": "assistant", "content": "one two three four"%s}]`
	for _, c := range [][3]string{
		{"/v1/chat/completions", `{"model": "chat", "continue_final_message": true, "add_generation_prompt": false, "messages": ` + fmt.Sprintf(messages, "") + `}`, "choices.0.message.content"},
		{"/v1/chat/completions", `{"model": "chat", "messages": ` + fmt.Sprintf(messages, `, "prefix": true`) + `}`, "choices.0.message.content"},
		{"/v1/messages", `{"model": "chat", "max_tokens": 60, "thinking": {"type": "adaptive"}, "messages": ` + fmt.Sprintf(messages, "") + `}`, "content.0.text"},
		{"/v1/messages", `{"model": "chat", "max_tokens": -1, "messages": [{"role": "user", "content": "Count to ten"}, {"role": "assistant", "content": []}, {"role": "assistant", "content": "one two three four"}]}`, "content.0.text"},
		{"/api/chat", `{"model": "chat", "stream": false, "messages": ` + fmt.Sprintf(messages, "") + `}`, "message.content"},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Equal(t, " five six seven eight nine ten", field[string](t, a.body, c[2]))
	}
	a := s.do("POST", "/v1/chat/completions", `{"model": "chat", "continue_final_message": true, "messages": [{"role": "user", "content": "x"}]}`)
	require.Equal(t, 400, a.StatusCode, a.body)
}

// Log-probabilities are those of the content's tokens, and no others.
func TestLogProbabilitiesAreOfTheContent(t *testing.T) {
	s := serve(t, Config{})
	for _, extra := range []string{"", `, "top_logprobs": 0`, `, "top_logprobs": 2`} {
		a := s.do("POST", "/v1/chat/completions", `{"model": "chat", "logprobs": true`+extra+`, "messages": [{"role": "user", "content": "Hello"}]}`)
		require.Equal(t, 200, a.StatusCode, a.body)
		text := ""
		for _, tok := range field[[]any](t, a.body, "choices.0.logprobs.content") {
			tok := tok.(map[string]any)
			text += tok["token"].(string)
			require.NotEmpty(t, tok["token"])
			require.NotNil(t, tok["top_logprobs"])
			if strings.HasSuffix(extra, "2") {
				require.Len(t, tok["top_logprobs"], 2)
			} else {
				require.Empty(t, tok["top_logprobs"])
			}
		}
		require.Equal(t, field[string](t, a.body, "choices.0.message.content"), text)
		require.Contains(t, a.body, "reasoning_content")
	}
}

// Schemas of nested types have references, and formats that nobody knows; neither keeps a call or a format from being followed.
func TestSchemasWithReferencesAndUnknownFormats(t *testing.T) {
	s := serve(t, Config{})
	const schema = `{"type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}}, "required": ["at"], "additionalProperties": false,
		"$defs": {"Place": {"type": "object", "properties": {"zip": {"enum": ["1", "2"], "format": "zip-code"}}, "required": ["zip"], "additionalProperties": false}}}`
	called := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 60, "messages": [{"role": "user", "content": "Hello"}], "tool_choice": "required", "parallel_tool_calls": false,
		"tools": [{"type": "function", "function": {"name": "a", "parameters": `+schema+`}}, {"type": "function", "function": {"name": "b", "parameters": `+schema+`}}]}`)
	require.Equal(t, 200, called.StatusCode, called.body)
	require.Regexp(t, `^\{"at": \{"zip": "[12]"\}\}$`, field[string](t, called.body, "choices.0.message.tool_calls.0.function.arguments"))
	formatted := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 60, "messages": [{"role": "user", "content": "Hello"}], "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": `+schema+`}}}`)
	require.Equal(t, 200, formatted.StatusCode, formatted.body)
	require.Contains(t, field[string](t, formatted.body, "choices.0.message.content"), `"zip"`)
}
