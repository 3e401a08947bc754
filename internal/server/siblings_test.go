package server

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// Paths of the APIs, each with a request that answers at once and whose last member is left open for more.
const (
	chatOpen      = `{"model": "chat", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]`
	completeOpen  = `{"model": "chat", "max_tokens": 3, "prompt": "Hello"`
	responsesOpen = `{"model": "chat", "max_output_tokens": 3, "input": "Hello"`
	messagesOpen  = `{"model": "chat", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]`
)

// ollamaWith is a request of /api/chat with an option.
func ollamaWith(option string) string {
	return `{"model": "chat", "stream": false, "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 3, ` + option + `}}`
}

// Numbers by which other servers' clients say "none" are taken in every API.
func TestNumbersThatMeanNothing(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range [][2]string{
		{"/v1/chat/completions", chatOpen + `, "top_k": -1}`}, {"/v1/completions", completeOpen + `, "top_k": -1}`},
		{"/v1/responses", responsesOpen + `, "top_k": -1}`}, {"/v1/messages", messagesOpen + `, "top_k": -1}`}, {"/api/chat", ollamaWith(`"top_k": -1`)},
		{"/v1/chat/completions", chatOpen + `, "top_p": 0, "temperature": 1}`}, {"/v1/completions", completeOpen + `, "top_p": 0}`},
		{"/v1/responses", responsesOpen + `, "top_p": 0.0}`}, {"/v1/messages", messagesOpen + `, "top_p": 0}`}, {"/api/chat", ollamaWith(`"top_p": 0`)},
		{"/v1/chat/completions", chatOpen + `, "repetition_penalty": 0}`}, {"/v1/completions", completeOpen + `, "repetition_penalty": 0.0}`},
		{"/api/chat", ollamaWith(`"repeat_penalty": 0`)}, {"/api/chat", ollamaWith(`"repeat_penalty": 1.1, "repeat_last_n": 0`)},
		{"/api/chat", ollamaWith(`"repeat_penalty": 1.1, "repeat_last_n": -1`)},
		{"/v1/embeddings", `{"model": "domains", "input": "a", "dimensions": 8.0}`}, {"/api/embed", `{"model": "domains", "input": "a", "dimensions": 8.0}`},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 200, a.StatusCode, "%s: %s", c[1], a.body)
	}
	// A top_p of nothing leaves the most likely token, however warm it is.
	const drawn = `{"model": "chat", "prompt": "one two three", "max_tokens": 8, "temperature": %s, "seed": %d%s}`
	greedy := field[string](t, s.do("POST", "/v1/completions", fmt.Sprintf(drawn, "0", 1, "")).body, "choices.0.text")
	for seed := range 5 {
		a := s.do("POST", "/v1/completions", fmt.Sprintf(drawn, "2", seed, `, "top_p": 0`))
		require.Equal(t, greedy, field[string](t, a.body, "choices.0.text"))
	}
}

// Fields of the newest packages of OpenAI and Anthropic that are about how the vendors' own servers work.
func TestFieldsOfTheNewestPackages(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range [][3]string{
		{"/v1/chat/completions", chatOpen + `, "prompt_cache_options": {"mode": "implicit"}}`, "prompt_cache_options"},
		{"/v1/responses", responsesOpen + `, "prompt_cache_options": {"ttl": "30m"}}`, "prompt_cache_options"},
		{"/v1/responses", responsesOpen + `, "access_programs": {"x": "y"}, "background_options": {"a": 1}, "image": {"detail": "low"}}`, "access_programs, background_options, image"},
		{"/v1/messages", messagesOpen + `, "billing_policy": {"type": "billing_policy", "bill_to": "self"}, "user_profile_id": "u", "workspace_id": "w", "fallback_credit_token": "t"}`,
			"billing_policy, user_profile_id, workspace_id, fallback_credit_token"},
		{"/v1/messages", messagesOpen + `, "thinking": {"type": "between_tools"}}`, ""},
		{"/v1/messages/count_tokens", messagesOpen + `, "compaction": {"type": "summarize"}}`, "max_tokens, compaction"},
		{"/v1/chat/completions", chatOpen + `, "chat_template_kwargs": {"add_generation_prompt": true, "continue_final_message": false, "tools": null}}`, ""},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 200, a.StatusCode, "%s: %s", c[1], a.body)
		require.Equal(t, c[2], a.Header.Get(headerIgnored))
	}
	for _, c := range [][2]string{{`"thread": {"type": "create"}`, "thread"}, {`"compaction": {"type": "summarize"}`, "compaction"}} {
		a := s.do("POST", "/v1/messages", messagesOpen+", "+c[0]+"}")
		require.Equal(t, 400, a.StatusCode, "a request for something else is refused")
		require.Contains(t, a.body, c[1]+": ")
	}
	a := s.do("POST", "/v1/responses", responsesOpen+`}`)
	require.Contains(t, a.body, `"input_tokens_details":{"cached_tokens":`)
	require.Contains(t, a.body, `"cache_write_tokens":0`, "the newest package of OpenAI has it as required")
}

// Counting tokens gives a number, also for a request that an answer would be streamed for.
func TestCountingTokensGeneratesNothing(t *testing.T) {
	s := serve(t, Config{})
	a := s.do("POST", "/v1/messages/count_tokens", `{"model": "chat", "stream": true, "max_tokens": 0, "temperature": 9, "messages": [{"role": "user", "content": "Hello"}]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.JSONEq(t, `{"input_tokens": 16}`, a.body)
	require.Equal(t, "stream, max_tokens, temperature", a.Header.Get(headerIgnored))
}

// What a vendor's own tools returned has contents of any kind, and blocks inside of blocks have more fields than their text.
func TestContentsInsideBlocks(t *testing.T) {
	s := serve(t, Config{})
	turns := func(role, block string) string {
		return fmt.Sprintf(`{"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}, {"role": %q, "content": [%s]}, {"role": "user", "content": "x"}]}`, role, block)
	}
	for _, c := range [][2]string{
		{"assistant", `{"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "web_search_tool_result_error", "error_code": "unavailable"}}`},
		{"assistant", `{"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "e"}]}`},
		{"assistant", `{"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {"type": "web_fetch_result", "url": "u", "content": {"type": "document", "source": {"type": "base64", "data": "x"}}}}`},
		{"assistant", `{"type": "code_execution_tool_result", "tool_use_id": "s", "content": {"type": "code_execution_result", "stdout": "1", "return_code": 0, "content": []}}`},
		{"assistant", `{"type": "tool_search_tool_result", "tool_use_id": "s", "content": {"type": "tool_search_tool_search_result", "tool_references": []}}`},
		{"assistant", `{"type": "mcp_tool_result", "tool_use_id": "s", "is_error": false, "content": [{"type": "image", "source": {"type": "base64"}}]}`},
		{"user", `{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "citations": [{"type": "char_location"}]}]}}`},
		{"user", `{"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "a", "citations": null, "cache_control": {"type": "ephemeral"}}], "citations": {"enabled": true}}`},
		{"user", `{"type": "tool_result", "tool_use_id": "s", "content": [{"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}]}`},
		{"user", `{"type": "tool_result", "tool_use_id": "s", "content": [{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a", "citations": []}]}}]}`},
	} {
		a := s.do("POST", "/v1/messages", turns(c[0], c[1]))
		require.Equal(t, 200, a.StatusCode, "%s: %s", c[1], a.body)
	}
	// A summary that stands for what was said before is text.
	long := s.do("POST", "/v1/messages/count_tokens", turns("user", `{"type": "compaction", "content": "one two three four five six seven eight nine ten"}`))
	short := s.do("POST", "/v1/messages/count_tokens", turns("user", `{"type": "compaction", "content": "one"}`))
	require.Greater(t, field[float64](t, long.body, "input_tokens"), field[float64](t, short.body, "input_tokens"))
	// What cannot be read is named where it stands.
	for block, where := range map[string]string{
		`{"type": "tool_result", "tool_use_id": "s", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64"}}]}`:    "messages[1].content[0].content[1].type",
		`{"type": "tool_result", "tool_use_id": "s", "content": {"type": "text", "text": "a"}}`:                                                       "messages[1].content[0].content",
		`{"type": "tool_result", "tool_use_id": "s", "content": [{"type": "document", "source": {"type": "url", "url": "x"}}]}`:                       "messages[1].content[0].content[0].source.type",
		`{"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {"type": "url"}}]}}`:                              "messages[1].content[0].source.content[0].type",
		`{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}}`:                                            "messages[1].content[0].source.type",
		`{"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"a": "b"}}]}`: "messages[1].content[0].content[1].type",
	} {
		a := s.do("POST", "/v1/messages", turns("user", block))
		require.Equal(t, 400, a.StatusCode, block)
		require.Contains(t, a.body, where+": ", block)
	}
	a := s.do("POST", "/v1/messages", `{"model": "chat", "max_tokens": 2, "system": [{"type": "text", "text": "a"}, {"type": "image"}], "messages": [{"role": "user", "content": "x"}]}`)
	require.Equal(t, 400, a.StatusCode)
	require.Contains(t, a.body, "system[1].type: ")
}

// Among allowed tools may be some that are no functions; they are as little there as in the list of tools.
func TestAllowedToolsOfOtherTypes(t *testing.T) {
	s := serve(t, Config{})
	function := `{"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}`
	a := s.do("POST", "/v1/responses", responsesOpen+`, "tools": [`+function+`], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}, {"type": "mcp", "server_label": "deepwiki"}, {"type": "image_generation"}]}}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	a = s.do("POST", "/v1/chat/completions", chatOpen+`, "tools": [`+tool("now")+`], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}, {"type": "custom", "custom": {"name": "x"}}]}}}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	for path, choice := range map[string]string{
		"/v1/chat/completions": chatOpen + `, "tools": [` + tool("now") + `], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}`,
		"/v1/responses":        responsesOpen + `, "tools": [` + function + `], "tool_choice": {"type": "mcp", "server_label": "x", "name": null}}`,
	} {
		a := s.do("POST", path, choice)
		require.Equal(t, 400, a.StatusCode)
		require.Contains(t, a.body, "tool_choice: only functions can be chosen")
	}
}

// Tools that an item of the input adds are offered, and programs that a vendor's server ran are left out.
func TestItemsThatAddTools(t *testing.T) {
	s := serve(t, Config{})
	add := `{"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "get_weather", "strict": false, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}, {"type": "web_search"}]}`
	a := s.do("POST", "/v1/responses", `{"model": "chat", "reasoning": {"effort": "none"}, "input": [`+add+`, {"role": "user", "content": "Weather in Dublin?"}]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Contains(t, a.body, `"type":"function_call"`)
	require.Equal(t, "input[0].tools[1] (web_search)", a.Header.Get(headerIgnored))
	for _, item := range []string{
		`{"type": "program", "id": "p", "call_id": "c", "code": "1", "fingerprint": "f"}`,
		`{"type": "program_output", "id": "p", "call_id": "c", "result": "1", "status": "completed"}`,
	} {
		a := s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 2, "input": [`+item+`, {"role": "user", "content": "Hello"}]}`)
		require.Equal(t, 200, a.StatusCode, a.body)
	}
	a = s.do("POST", "/v1/responses", `{"model": "chat", "input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "a b"}]}, {"role": "user", "content": "x"}]}`)
	require.Equal(t, 400, a.StatusCode)
	require.Contains(t, a.body, "input[0].tools[0].name: ")
}

// An item that was sent is one, however often it is named: a long answer cannot be made a prompt of gigabytes.
func TestAnItemIsReferredToOnce(t *testing.T) {
	s := serve(t, Config{StoreBytes: 1 << 20})
	first := s.do("POST", "/v1/responses", responsesOpen+`}`)
	reference := fmt.Sprintf(`{"type": "item_reference", "id": %q}`, field[string](t, first.body, "output.0.id"))
	a := s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 2, "input": [`+reference+`, {"role": "user", "content": "x"}]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	a = s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 2, "input": [`+reference+`, `+reference+`]}`)
	require.Equal(t, 400, a.StatusCode, a.body)
	require.Contains(t, a.body, `"param":"input[1].id"`)
}

// Calls as they were written before there were tools are calls in the prompt, and not only a field without effect.
func TestFunctionCallsOfOldMessages(t *testing.T) {
	s := serve(t, Config{})
	prompt := func(messages string) float64 {
		a := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}, `+messages+`]}`)
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Empty(t, a.Header.Get(headerIgnored))
		return field[float64](t, a.body, "usage.prompt_tokens")
	}
	old := prompt(`{"role": "assistant", "content": null, "function_call": {"name": "now", "arguments": "{\"zone\": \"utc\"}"}}, {"role": "function", "name": "now", "content": "12:30"}`)
	today := prompt(`{"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": \"utc\"}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "12:30"}`)
	require.Equal(t, today, old)
}

// Values for the chat template cannot replace it, the chat, or what becomes of it.
func TestTemplateArgumentsCannotReplaceTheTemplate(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	for _, model := range []string{"native", "python"} {
		for _, arguments := range []string{
			`{"chat_template": "{% for i in range(1000000000) %}x{% endfor %}"}`, `{"messages": []}`, `{"conversation": []}`, `{"tools": []}`, `{"tokenize": false}`,
			`{"truncation": true, "max_length": 3}`, `{"padding": "max_length"}`, `{"return_dict": true}`, `{"return_tensors": "pt"}`, `{"add_generation_prompt": false}`,
			`{"continue_final_message": true}`, `{"self": 1}`, `{"sanitize_control_tokens": false}`,
		} {
			w := post(t, s, "/v1/chat/completions", fmt.Sprintf(`{"model": %q, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": %s}`, model, arguments))
			require.Equal(t, 400, w.Code, "%s %s: %s", model, arguments, w.Body)
			require.Contains(t, w.Body.String(), `"param":"chat_template_kwargs"`)
		}
	}
}

// Each API says in its own words that an address is not there, that a key is wrong, and that a host is unknown.
func TestErrorsOutsideOfRoutes(t *testing.T) {
	shape := func(a answer) string {
		switch {
		case strings.HasPrefix(a.body, `{"type":"error","error":{"type":`):
			return "anthropic"
		case strings.HasPrefix(a.body, `{"error":"`):
			return "ollama"
		case strings.HasPrefix(a.body, `{"error":{"message":`):
			return "openai"
		}
		return a.body
	}
	paths := map[string]string{
		"/v1/messages/batches": "anthropic", "/v1/messages": "anthropic", "/api/pull": "ollama", "/api/chat": "ollama", "/v1/nothing": "openai", "/v1/responses": "openai",
	}
	plain, keyed, below := serve(t, Config{}), serve(t, Config{APIKeys: []string{"k"}}), serve(t, Config{BasePath: "/lm"})
	for path, want := range paths {
		gone := plain.do("GET", path, "")
		require.Equal(t, 404, gone.StatusCode, path)
		require.Equal(t, want, shape(gone), path)
		require.Equal(t, want, shape(below.do("GET", "/lm"+path, "")), path)
		outside := below.do("GET", path, "")
		require.Equal(t, 404, outside.StatusCode, path)
		require.Equal(t, want, shape(outside), path)
		unknown := keyed.do("POST", path, "{}")
		require.Equal(t, 401, unknown.StatusCode, path)
		require.Equal(t, want, shape(unknown), path)
		stranger := plain.do("POST", path, "{}", "Host", "evil.example")
		require.Equal(t, 403, stranger.StatusCode, path)
		require.Equal(t, want, shape(stranger), path)
		crossing := plain.do("POST", path, "{}", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
		require.Equal(t, 403, crossing.StatusCode, path)
		require.Equal(t, want, shape(crossing), path)
	}
	require.Equal(t, "anthropic", shape(plain.do("GET", "/v1/models/nobody", "", "Anthropic-Version", "2023-06-01")))
	require.Equal(t, "openai", shape(plain.do("GET", "/v1/models/nobody", "")))
}

// A base path is one with or without its slashes, and what could be none is told at the start.
func TestBasePathsAsTheyAreWritten(t *testing.T) {
	for _, given := range []string{"lm", "/lm", "lm/", "/lm/"} {
		s := serve(t, Config{BasePath: given, Page: true})
		require.Equal(t, "/lm/", s.Root())
		for _, path := range []string{"/lm/v1/models", "/lm/", "/lm/page/app.js", "/lm", "/healthz", "/lm/readyz"} {
			require.Equal(t, 200, s.do("GET", path, "").StatusCode, given+" "+path)
		}
		require.Equal(t, 404, s.do("GET", "/v1/models", "").StatusCode)
		require.Equal(t, 404, s.do("GET", "/lmx/v1/models", "").StatusCode)
	}
	deep := serve(t, Config{BasePath: "a/b.c/"})
	require.Equal(t, 200, deep.do("GET", "/a/b.c/v1/models", "").StatusCode)
	require.Equal(t, 200, serve(t, Config{BasePath: "/"}).do("GET", "/v1/models", "").StatusCode)
	models := deep.config.Models
	for _, given := range []string{"/a{b}", "/a b", "/a//b", "/../a", "/a?b", "/{$}", "/é", "GET /x"} {
		_, err := New(Config{Models: models, BasePath: given})
		require.ErrorContains(t, err, "base path", given)
	}
}

// A key may come in either header, whatever the other one has, and the scheme's case does not count.
func TestAPIKeysInEitherHeader(t *testing.T) {
	s := serve(t, Config{APIKeys: []string{"right"}})
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{"Authorization", "bearer right"}, 200}, {[]string{"Authorization", "BEARER  right"}, 200}, {[]string{"X-Api-Key", "right", "Authorization", "Bearer wrong"}, 200},
		{[]string{"X-Api-Key", "wrong", "Authorization", "Bearer right"}, 200}, {[]string{"Authorization", "Basic right"}, 401}, {[]string{"Authorization", "right"}, 401},
		{[]string{"Authorization", "Bearer "}, 401}, {[]string{"X-Api-Key", "wrong", "Authorization", "Bearer wrong"}, 401}, {nil, 401},
	} {
		require.Equal(t, c.want, s.do("GET", "/v1/models", "", c.headers...).StatusCode, "%v", c.headers)
	}
}

// Names of hosts have no case, and an address of this machine itself cannot be another site's name.
func TestHostsThatAreThisOne(t *testing.T) {
	s := serve(t, Config{AllowedHosts: []string{"Lab.Example"}})
	for host, want := range map[string]int{
		"LOCALHOST:8090": 200, "localhost.": 200, "127.0.0.2:8090": 200, "[::1]:8090": 200, "lab.example": 200, "LAB.example:1": 200,
		"evil.example": 403, "localhost.evil.example": 403, "192.0.2.1": 403, "127.0.0.1.evil.example": 403,
	} {
		require.Equal(t, want, s.do("GET", "/v1/models", "", "Host", host).StatusCode, host)
	}
}

// A body that is packed is told from one that is no JSON.
func TestPackedBodies(t *testing.T) {
	s := serve(t, Config{})
	for _, encoding := range []string{"gzip", "zstd", "br", "deflate"} {
		a := s.do("POST", "/v1/chat/completions", "\x1f\x8b", "Content-Encoding", encoding)
		require.Equal(t, http.StatusUnsupportedMediaType, a.StatusCode)
		require.Contains(t, a.body, encoding)
	}
	require.Equal(t, 200, s.do("POST", "/v1/chat/completions", chatOpen+"}", "Content-Encoding", "identity").StatusCode)
}

// What a client sends comes back in errors, headers and the log, but not at any length.
func TestWhatComesBackIsShort(t *testing.T) {
	s := serve(t, Config{})
	long := strings.Repeat("x", 1<<20)
	for _, body := range []string{
		`{"model": "` + long + `", "messages": [{"role": "user", "content": "x"}]}`,
		`{"model": "chat", "messages": [{"role": "` + long + `", "content": "x"}]}`,
		`{"model": "chat", "messages": [{"role": "user", "content": "x"}], "` + long + `": 1}`,
		`{"model": "chat", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "` + long + `"}}]}`,
	} {
		a := s.do("POST", "/v1/chat/completions", body)
		require.GreaterOrEqual(t, a.StatusCode, 400)
		require.Less(t, len(a.body), 5000)
	}
	a := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "x", "`+long+`": 1}]}`)
	require.Equal(t, 200, a.StatusCode)
	require.Less(t, len(a.Header.Get(headerIgnored)), 500)
	require.Less(t, len(s.log.String()), 50_000)
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf(`"f%d": 1`, i)
	}
	a = s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "x", `+strings.Join(many, ", ")+`}]}`)
	require.Equal(t, 200, a.StatusCode)
	require.Less(t, len(a.Header.Get(headerIgnored)), 1000)
}

// A request of many small pieces takes memory as it is long, and not by its square.
func TestManySmallPiecesAreJoinedOnce(t *testing.T) {
	s := serve(t, Config{StoreBytes: 1 << 20})
	const n = 16_000
	piece := strings.Repeat("y", 300)
	block := func(int) string { return `{"type": "text", "text": "` + piece + `"}` }
	message := func(role string) func(int) string {
		return func(int) string { return fmt.Sprintf(`{"role": %q, "content": %q}`, role, piece) }
	}
	for name, c := range map[string][2]string{
		"blocks":     {"/v1/messages", `{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": ` + list(n, block) + `}]}`},
		"results":    {"/v1/messages", `{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": ` + list(n, block) + `}]}]}`},
		"system":     {"/v1/messages", `{"model": "chat", "max_tokens": 1, "system": ` + list(n, block) + `, "messages": [{"role": "user", "content": "x"}]}`},
		"neighbours": {"/v1/messages", `{"model": "chat", "max_tokens": 1, "messages": ` + list(n, message("user")) + `}`},
		"beginnings": {"/v1/messages", `{"model": "chat", "max_tokens": 1, "messages": ` + list(n, message("assistant")) + `}`},
		"systems":    {"/v1/chat/completions", `{"model": "chat", "max_tokens": 1, "messages": ` + list(n, message("system")) + `}`},
		"items":      {"/v1/responses", `{"model": "chat", "max_output_tokens": 1, "input": ` + list(n, message("assistant")) + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			before := allocated()
			a := s.do("POST", c[0], c[1])
			require.Equal(t, 400, a.StatusCode, "longer than the context: %s", turn.Short(a.body, 500))
			require.Less(t, allocated()-before, uint64(100*len(c[1])))
		})
	}
	a := s.do("POST", "/v1/responses", `{"model": "chat", "input": `+list(turn.MaxMessages+1, message("assistant"))+`}`)
	require.Contains(t, a.body, "16385 items are more than")
}

// allocated is how many bytes were allocated until now, whether they are still in use or not.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A text that is too long in whatever tokens it comes is refused before it is made into tokens, on both engines.
func TestTextsThatAreTooLongByFar(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	long := strings.Repeat("a", 7<<20)
	for _, model := range []string{"native", "python"} {
		for _, c := range [][2]string{
			{"/v1/chat/completions", `{"model": %q, "messages": [{"role": "user", "content": %q}]}`},
			{"/v1/completions", `{"model": %q, "prompt": ["x", %q]}`},
			{"/v1/responses", `{"model": %q, "input": "x", "tools": [{"type": "function", "name": "f", "description": %q, "parameters": {"type": "object", "properties": {}}}]}`},
			{"/v1/embeddings", `{"model": %q, "input": %q}`},
		} {
			if model == "python" && c[0] == "/v1/embeddings" {
				continue // it has none
			}
			before := time.Now()
			w := post(t, s, c[0], fmt.Sprintf(c[1], model, long))
			require.Equal(t, 400, w.Code)
			require.Contains(t, w.Body.String(), "context_length_exceeded")
			t.Log(model, c[0], time.Since(before))
		}
		for path, body := range map[string]string{"/tokenize": `{"model": %q, "content": %q}`, "/v1/tokenize": `{"model": %q, "text": %q}`} {
			w := post(t, s, path, fmt.Sprintf(body, model, long))
			require.Equal(t, 400, w.Code)
			require.Contains(t, w.Body.String(), "7340032 bytes are more than the 1048576")
		}
	}
	w := post(t, s, "/v1/messages/count_tokens", fmt.Sprintf(`{"model": "native", "messages": [{"role": "user", "content": %q}]}`, long[:2<<20]))
	require.Equal(t, 200, w.Code, "to count them is another thing")
	w = post(t, s, "/detokenize", `{"model": "native", "tokens": `+list(turn.MaxTokenized+1, func(int) string { return "5" })+`}`)
	require.Equal(t, 400, w.Code)
}

// A schema that can be read and that no JSON follows is the client's mistake, on both engines.
func TestSchemasThatNothingFollows(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	for _, model := range []string{"native", "python"} {
		for _, schema := range []string{`{"$ref": "#"}`, `{"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}`, `{"type": "string", "minLength": 5, "maxLength": 2}`, `{"enum": []}`} {
			w := post(t, s, "/v1/chat/completions", fmt.Sprintf(`{"model": %q, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": %s}}}`, model, schema))
			require.Equal(t, 400, w.Code, "%s %s: %s", model, schema, w.Body)
			require.Contains(t, w.Body.String(), `"param":"response_format"`)
		}
	}
}

// Nothing may stand behind the JSON of a request, whether it is JSON or not.
func TestWhatStandsBehindTheBody(t *testing.T) {
	s := serve(t, Config{})
	for _, more := range []string{"x", "{", "}", "]", "\x00", `{"model": "chat"}`, "null", "//"} {
		a := s.do("POST", "/v1/chat/completions", chatOpen+"}"+more)
		require.Equal(t, 400, a.StatusCode, more)
		require.Contains(t, a.body, "there is more after the first value")
	}
	require.Equal(t, 200, s.do("POST", "/v1/chat/completions", chatOpen+"} \n\t").StatusCode)
}

// Where a request is kept that ended workers is for the log, and not for clients.
func TestAQuarantinedRequestTellsNoPath(t *testing.T) {
	told := explain(fmt.Errorf("%w: it ended two workers (see /home/someone/quarantine/1.json)", mlx.ErrQuarantined), nil)
	require.Equal(t, turn.Internal, told.Kind)
	require.NotContains(t, told.Message, "/home")
	require.Contains(t, told.Message, "ended two workers")
}

// What says no more than a vendor's own default is not worth naming, and a strict server takes it.
func TestDefaultsOfVendors(t *testing.T) {
	s := serve(t, Config{Strict: true})
	for _, c := range [][2]string{
		{"/v1/responses", responsesOpen + `, "service_tier": "auto", "truncation": "disabled", "top_logprobs": 0, "text": {"verbosity": "medium", "format": {"type": "text"}}, "store": false}`},
		{"/v1/responses", responsesOpen + `, "stream": true, "stream_options": {"include_obfuscation": false}, "metadata": {}, "include": [], "reasoning": {"summary": null}}`},
		{"/v1/chat/completions", chatOpen + `, "service_tier": "default", "verbosity": "medium", "store": false, "metadata": {}, "user": ""}`},
		{"/v1/completions", completeOpen + `, "service_tier": "auto", "user": null}`},
		{"/v1/messages", messagesOpen + `, "service_tier": "standard_only", "speed": "standard", "metadata": {"user_id": null}, "context_management": {"edits": []}, "output_config": {"effort": null}}`},
		{"/api/chat", `{"model": "chat", "stream": false, "truncate": true, "shift": true, "logprobs": false, "top_logprobs": 0, "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 2}}`},
		{"/api/generate", `{"model": "chat", "stream": false, "truncate": true, "template": "", "context": [], "suffix": "", "images": [], "prompt": "Hello", "options": {"num_predict": 2}}`},
		{"/api/embed", `{"model": "domains", "truncate": true, "options": {}, "input": "a"}`},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 200, a.StatusCode, "%s: %s", c[1], a.body)
		require.Empty(t, a.Header.Get(headerIgnored))
	}
	for _, c := range [][3]string{
		{"/v1/responses", responsesOpen + `, "truncation": "auto"}`, "truncation"}, {"/v1/messages", messagesOpen + `, "metadata": {"user_id": "u"}}`, "metadata"},
		{"/v1/messages", messagesOpen + `, "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}`, "context_management"},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 400, a.StatusCode)
		require.Contains(t, a.body, c[2])
	}
}

// As in Ollama, a model is unloaded after an answer that was asked for with a keep_alive of 0.
func TestKeepAliveOfNothing(t *testing.T) {
	s := serve(t, Config{})
	for _, body := range []string{
		`{"model": "chat", "stream": %t, "keep_alive": 0, "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 2}}`,
		`{"model": "chat", "stream": %t, "keep_alive": "0s", "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 2}}`,
	} {
		for _, stream := range []bool{true, false} {
			a := s.do("POST", "/api/chat", fmt.Sprintf(body, stream))
			require.Equal(t, 200, a.StatusCode, a.body)
			require.Eventually(t, func() bool { return s.state("chat").Model == nil }, time.Minute, time.Millisecond)
		}
	}
	s.do("POST", "/api/chat", `{"model": "chat", "stream": false, "keep_alive": "5m", "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 2}}`)
	require.NotNil(t, s.state("chat").Model)
}

// The items of a request come back whole, with what the official packages demand, and a page at a time.
func TestInputItems(t *testing.T) {
	s := serve(t, Config{StoreBytes: 1 << 20})
	first := s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 2, "input": [{"role": "user", "content": "Hello"},
		{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "in short"}]},
		{"type": "message", "id": "msg_1", "role": "assistant", "phase": "commentary", "content": [{"type": "output_text", "text": "a"}]},
		{"type": "function_call", "id": "fc_1", "call_id": "c", "name": "now", "arguments": ""}, {"type": "function_call_output", "id": "fo_1", "call_id": "c", "output": ""},
		{"type": "custom_tool_call", "id": "ct_1", "call_id": "d", "name": "g", "input": "i"}, {"role": "user", "id": "msg_2", "content": "more"}]}`)
	require.Equal(t, 200, first.StatusCode, first.body)
	address := "/v1/responses/" + field[string](t, first.body, "id")
	all := s.do("GET", address+"/input_items?order=asc", "").body
	for path, want := range map[string]any{
		"data.0.content.0.type": "input_text", "data.1.summary.0.text": "in short", "data.1.content": []any{}, "data.2.content.0.annotations": []any{},
		"data.3.arguments": "", "data.4.output": "", "data.5.input": "i", "has_more": false, "last_id": "msg_2",
	} {
		require.Equal(t, want, field[any](t, all, path), path)
	}
	page := s.do("GET", address+"/input_items?limit=2", "").body
	require.Equal(t, "msg_2", field[string](t, page, "first_id"), "the last one comes first")
	require.Equal(t, "ct_1", field[string](t, page, "last_id"))
	require.Equal(t, true, field[bool](t, page, "has_more"))
	require.Equal(t, "fo_1", field[string](t, s.do("GET", address+"/input_items?limit=2&after=ct_1", "").body, "first_id"))
	for _, wrong := range []string{"limit=0", "limit=x", "limit=101", "order=up", "after=nobody"} {
		require.Equal(t, 400, s.do("GET", address+"/input_items?"+wrong, "").StatusCode, wrong)
	}
	require.Equal(t, 400, s.do("GET", address+"?stream=true", "").StatusCode, "a client would wait for events")
	require.Equal(t, 200, s.do("GET", address+"?stream=false", "").StatusCode)
}
