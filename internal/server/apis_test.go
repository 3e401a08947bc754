package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamesOfModels(t *testing.T) {
	s := serve(t, Config{Aliases: []Alias{{"claude-*", "chat"}, {"gpt-4o", "chat"}, {"gpt-*", "domains"}, {"openai/*", "chat"}, {"*-large", "chat"}}, DefaultModel: "chat"})
	for name, want := range map[string]int{"claude-haiku-4-5": 200, "gpt-4o": 200, "chat": 200, "default": 200, "openai/gpt-4o": 200, "openai/org/gpt": 200, "org/some-large": 200, "nobody": 404, "org/nobody": 404, "": 200} {
		a := s.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model": %q, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}`, name))
		require.Equal(t, want, a.StatusCode, "%s: %s", name, a.body)
		if want == 200 && name != "" {
			require.Contains(t, a.body, `"model":"`+name+`"`, "a client gets the name back that it gave")
		}
	}
	for path, body := range map[string]string{
		"/v1/chat/completions": `"max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]`, "/v1/completions": `"max_tokens": 2, "prompt": "Hello", "stream": true`,
		"/v1/responses": `"max_output_tokens": 2, "input": "Hello"`, "/v1/messages": `"max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}], "model": null`,
		"/api/chat": `"messages": [], "model": ""`, "/v1/embeddings": `"input": "a"`, "/api/embed": `"input": "a"`, "/v1/classify": `"texts": ["a"], "labels": ["x", "y"]`,
	} {
		a := s.do("POST", path, "{"+body+"}")
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Contains(t, a.body, `"model":"chat"`, "a client that names none learns which one it got: %s", path)
	}
	list := s.do("GET", "/v1/models", "").body
	require.Contains(t, list, `"id":"gpt-4o"`)
	require.NotContains(t, list, `claude-*`)
	require.Contains(t, list, `"context_length":4096`)
	require.Equal(t, 200, s.do("GET", "/v1/models/claude-opus", "").StatusCode)
	require.Equal(t, 404, s.do("GET", "/v1/models/nobody", "").StatusCode)
	require.Equal(t, 200, s.do("GET", "/v1/models", "", "Host", "host.docker.internal:8090").StatusCode, "a container knows its host by this name")
}

// Items that the server keeps can be named instead of being sent again.
func TestReferencesToItems(t *testing.T) {
	s := serve(t, Config{StoreBytes: 1 << 20})
	weather := `"tools": [{"type": "function", "name": "get_weather", "strict": false, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]`
	first := s.do("POST", "/v1/responses", `{"model": "chat", "input": "Weather in Dublin?", `+weather+`}`)
	require.Equal(t, 200, first.StatusCode, first.body)
	var ids []string
	var callID string
	for _, item := range field[[]any](t, first.body, "output") {
		item := item.(map[string]any)
		ids = append(ids, fmt.Sprintf(`{"type": "item_reference", "id": %q}`, item["id"]))
		if item["type"] == "function_call" {
			callID = item["call_id"].(string)
		}
	}
	require.NotEmpty(t, callID)
	result := fmt.Sprintf(`{"type": "function_call_output", "call_id": %q, "output": [{"type": "input_text", "text": "{\"temperature\": 12, \"sky\": \"rainy\"}"}]}`, callID)
	input := `[{"role": "user", "content": "Weather in Dublin?"}, ` + strings.Join(ids, ", ") + ", " + result + "]"
	second := s.do("POST", "/v1/responses", `{"model": "chat", "reasoning": {"effort": "none"}, "input": `+input+`, `+weather+`}`)
	require.Equal(t, 200, second.StatusCode, second.body)
	require.Contains(t, second.body, "It is rainy in Dublin, 12 degrees.")

	// The loop of the documentation: what came out goes in again.
	var answer struct {
		ID     string
		Output []json.RawMessage
	}
	require.NoError(t, json.Unmarshal([]byte(first.body), &answer))
	input = `[{"role": "user", "content": "Weather in Dublin?"}`
	for _, item := range answer.Output {
		input += ", " + string(item)
	}
	again := s.do("POST", "/v1/responses", `{"model": "chat", "reasoning": {"effort": "none"}, "input": `+input+", "+result+`], `+weather+`}`)
	require.Contains(t, again.body, "It is rainy in Dublin, 12 degrees.")
	require.Empty(t, again.Header.Get(headerIgnored))

	items := s.do("GET", "/v1/responses/"+answer.ID+"/input_items", "")
	require.Equal(t, "Weather in Dublin?", field[string](t, items.body, "data.0.content.0.text"))
	require.Equal(t, 200, s.do("DELETE", "/v1/responses/"+answer.ID, "").StatusCode)
	require.Equal(t, 404, s.do("POST", "/v1/responses", `{"model": "chat", "input": [`+ids[0]+`]}`).StatusCode)
	require.Equal(t, 404, s.do("GET", "/v1/responses/"+answer.ID+"/input_items", "").StatusCode)

	for _, call := range []string{`""`, `"{}"`} {
		a := s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 2, "input": [{"role": "user", "content": "x"}, {"type": "function_call", "call_id": "c", "name": "now", "arguments": `+call+`}, {"type": "function_call_output", "call_id": "c", "output": "12:30"}]}`)
		require.Equal(t, 200, a.StatusCode, a.body)
	}
}

func TestOllama(t *testing.T) {
	s := serve(t, Config{Page: true})
	require.Equal(t, 200, s.do("HEAD", "/", "").StatusCode)
	require.Contains(t, s.do("GET", "/api/version", "").body, `"version":"0.`)
	require.Equal(t, "chat", field[string](t, s.do("GET", "/api/tags", "").body, "models.0.name"))
	require.JSONEq(t, `{"models": []}`, s.do("GET", "/api/ps", "").body)
	show := s.do("POST", "/api/show", `{"model": "chat:latest"}`)
	require.Contains(t, show.body, `"capabilities":["completion","tools","thinking"]`)
	require.Contains(t, show.body, `"qwen3.context_length":4096`)
	require.Equal(t, 404, s.do("POST", "/api/show", `{"model": "nobody"}`).StatusCode)

	loaded := s.do("POST", "/api/generate", `{"model": "chat"}`)
	require.Equal(t, "load", field[string](t, loaded.body, "done_reason"))
	require.Equal(t, "chat", field[string](t, s.do("GET", "/api/ps", "").body, "models.0.model"))

	whole := s.do("POST", "/api/chat", `{"model": "chat:latest", "stream": false, "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, "A greeting. I greet back and offer help.", field[string](t, whole.body, "message.thinking"))
	streamed := s.do("POST", "/api/chat", `{"model": "chat", "think": false, "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, "application/x-ndjson", streamed.Header.Get("Content-Type"))
	text, last := "", ""
	for line := range strings.SplitSeq(strings.TrimSpace(streamed.body), "\n") {
		text += field[string](t, line, "message.content")
		last = line
	}
	require.Equal(t, field[string](t, whole.body, "message.content"), text)
	require.True(t, field[bool](t, last, "done"))
	require.Equal(t, "stop", field[string](t, last, "done_reason"))
	require.Positive(t, field[float64](t, last, "eval_count"))

	call := s.do("POST", "/api/chat", `{"model": "chat", "stream": false, `+athens+`, "tools": [`+tool("get_weather")+`]}`)
	require.Equal(t, "Athens", field[string](t, call.body, "message.tool_calls.0.function.arguments.city"))
	result := s.do("POST", "/api/chat", `{"model": "chat", "stream": false, "think": false, "messages": [{"role": "user", "content": "What is the weather in Athens?"},
		{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Athens"}}}]}, {"role": "tool", "tool_name": "get_weather", "content": "{\"temperature\": 28, \"sky\": \"clear\"}"}], "tools": [`+tool("get_weather")+`]}`)
	require.Equal(t, "It is clear in Athens, 28 degrees.", field[string](t, result.body, "message.content"))

	generated := s.do("POST", "/api/generate", `{"model": "chat", "stream": false, "think": false, "prompt": "Count to ten", "options": {"stop": ["five"], "num_ctx": 8192}}`)
	require.Equal(t, "one two three four ", field[string](t, generated.body, "response"))
	require.Equal(t, "options.num_ctx", generated.Header.Get(headerIgnored))
	raw := s.do("POST", "/api/generate", `{"model": "chat", "stream": false, "raw": true, "prompt": "x", "options": {"num_predict": 3}}`)
	require.Equal(t, "length", field[string](t, raw.body, "done_reason"))
	formatted := s.do("POST", "/api/generate", `{"model": "chat", "stream": false, "prompt": "Give me JSON", "options": {"num_predict": 60}, "format": {"type": "object", "properties": {"depth": {"type": "integer"}}, "required": ["depth"], "additionalProperties": false}}`)
	require.Regexp(t, `^\{"depth": ?\d+\}$`, field[string](t, formatted.body, "response"))

	unloaded := s.do("POST", "/api/generate", `{"model": "chat", "keep_alive": 0}`)
	require.Equal(t, "unload", field[string](t, unloaded.body, "done_reason"))
	require.JSONEq(t, `{"models": []}`, s.do("GET", "/api/ps", "").body)

	vectors := s.do("POST", "/api/embed", `{"model": "domains", "input": ["a", "b"]}`)
	require.Len(t, field[[]any](t, vectors.body, "embeddings"), 2)
	wrong := s.do("POST", "/api/chat", `{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}`)
	require.Equal(t, 404, wrong.StatusCode)
	require.Contains(t, field[string](t, wrong.body, "error"), "there is no model")
}

func TestTokensLoadingAndUnloading(t *testing.T) {
	s := serve(t, Config{})
	for _, name := range []string{"text", "content", "prompt"} {
		a := s.do("POST", "/v1/tokenize", fmt.Sprintf(`{"model": "chat", %q: "Hello there", "with_pieces": true}`, name))
		require.Equal(t, 200, a.StatusCode, a.body)
		var ids []string
		text := ""
		for _, piece := range field[[]any](t, a.body, "tokens") {
			piece := piece.(map[string]any)
			ids = append(ids, fmt.Sprint(piece["id"]))
			text += piece["piece"].(string)
		}
		require.Equal(t, "Hello there", text)
		back := s.do("POST", "/detokenize", `{"model": "chat", "tokens": [`+strings.Join(ids, ",")+`]}`)
		require.Equal(t, "Hello there", field[string](t, back.body, "content"))
		echo := s.do("POST", "/v1/completions", `{"model": "chat", "echo": true, "max_tokens": 1, "prompt": [`+strings.Join(ids, ",")+`]}`)
		require.True(t, strings.HasPrefix(field[string](t, echo.body, "choices.0.text"), "Hello there"), echo.body)
	}
	require.True(t, field[bool](t, s.do("POST", "/v1/load", `{"model": "domains"}`).body, "loaded"))
	require.NotNil(t, s.state("domains").Model)
	require.False(t, field[bool](t, s.do("POST", "/v1/unload", `{"model": "domains"}`).body, "loaded"))
	require.Nil(t, s.state("domains").Model)
	require.Equal(t, 404, s.do("POST", "/v1/unload", `{"model": "nobody"}`).StatusCode)
}

func TestABasePath(t *testing.T) {
	s := serve(t, Config{BasePath: "/lm/", Page: true})
	for path, want := range map[string]int{"/lm/": 200, "/lm/page/app.js": 200, "/lm/v1/models": 200, "/lm/readyz": 200, "/readyz": 200, "/v1/models": 404, "/": 404} {
		require.Equal(t, want, s.do("GET", path, "").StatusCode, path)
	}
}
