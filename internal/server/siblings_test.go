package server

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
	s := serve(t, Config{StoreBytes: 1 << 20})
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
	a = s.do("POST", "/v1/responses", `{"model": "chat", "input": [{"type": "additional_tools", "tools": 3}, {"role": "user", "content": "x"}]}`)
	require.Equal(t, 400, a.StatusCode)
	require.Contains(t, a.body, "input[0].tools: a JSON number cannot stand here")

	// They stay for the next turns, and may be sent again with the history.
	first := s.do("POST", "/v1/responses", `{"model": "chat", "store": true, "max_output_tokens": 2, "input": [`+add+`, `+add+`, {"role": "user", "content": "Hello"}]}`)
	require.Equal(t, 200, first.StatusCode, first.body)
	require.Contains(t, s.do("GET", "/v1/responses/"+field[string](t, first.body, "id")+"/input_items", "").body, `"name":"get_weather"`)
	a = s.do("POST", "/v1/responses", fmt.Sprintf(`{"model": "chat", "reasoning": {"effort": "none"}, "previous_response_id": %q, "input": "Weather in Dublin?"}`, field[string](t, first.body, "id")))
	require.Contains(t, a.body, `"type":"function_call"`)
	// What other items have by that name is theirs.
	a = s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 2, "input": [{"type": "tool_search_output", "tools": [{"type": "function", "name": "x", "strict": "no"}, 3]}, {"role": "user", "content": "x"}]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
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

// Items by which Codex sets how the answers that follow are, or hands on what another agent said.
func TestItemsAboutTheConversation(t *testing.T) {
	s := serve(t, Config{StoreBytes: 1 << 20})
	ask := func(items, more string) answer {
		return s.do("POST", "/v1/responses", `{"model": "chat", "max_output_tokens": 40, "input": [{"role": "user", "content": "Hello"}, `+items+`]`+more+`}`)
	}
	const calm = `{"type": "configuration_update", "reasoning": {"effort": "none"}}`
	a := ask(`{"type": "configuration_update", "id": "c", "reasoning": {"effort": "high"}, "text": null}`, `, "reasoning": {"effort": "none"}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Contains(t, a.body, `"type":"reasoning"`)
	require.Empty(t, a.Header.Get(headerIgnored))
	a = ask(calm, "")
	require.Equal(t, 200, a.StatusCode, a.body)
	require.NotContains(t, a.body, `"type":"reasoning"`)
	next := s.do("POST", "/v1/responses", fmt.Sprintf(`{"model": "chat", "max_output_tokens": 40, "input": "Hello", "previous_response_id": %q}`, field[string](t, a.body, "id")))
	require.NotContains(t, next.body, `"type":"reasoning"`, "it holds until another one says otherwise")
	a = ask(`{"type": "configuration_update", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"const": 5}}}}`, "")
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Equal(t, "5", field[string](t, a.body, "output.0.content.0.text"))

	whole := ask(`{"type": "agent_message", "author": "/root/a", "recipient": "/root", "content": [{"type": "input_text", "text": "one two three four"}, {"type": "encrypted_content", "encrypted_content": "x"}]}`, "")
	require.Equal(t, 200, whole.StatusCode, whole.body)
	require.Equal(t, "input[].author, input[].recipient, input[].content[].encrypted_content", whole.Header.Get(headerIgnored))
	none := ask(`{"type": "context_compaction", "encrypted_content": "x"}`, "")
	require.Equal(t, 200, none.StatusCode, none.body)
	require.Greater(t, field[float64](t, whole.body, "usage.input_tokens"), field[float64](t, none.body, "usage.input_tokens"))

	for items, where := range map[string]string{
		`{"type": "configuration_update", "reasoning": {"effort": 5}}`:             "input[1].reasoning.effort",
		`{"type": "configuration_update", "text": {"format": {"type": "xml"}}}`:    "input[1].text.format.type",
		`{"type": "additional_tools", "tools": [{"type": "function", "name": 5}]}`: "input[1].tools[0].name",
		`{"type": "additional_tools"}`:                                             "input[1].tools",
		`{"type": "additional_tools", "tools": null}`:                              "input[1].tools",
		`{"type": "compaction_trigger"}`:                                           "input[1].type",
	} {
		a := ask(items, "")
		require.Equal(t, 400, a.StatusCode, a.body)
		require.Contains(t, a.body, `"param":"`+where+`"`)
		require.NotContains(t, a.body, "Go ", "a type of this program says nothing to a client")
	}
}

// A limit of the thought goes by several names.
func TestLimitsOfThoughtsByTheirNames(t *testing.T) {
	s := serve(t, Config{})
	ask := func(path, more string) answer {
		return s.do("POST", path, `{"model": "chat", "max_tokens": 60, "messages": [{"role": "user", "content": "Hello"}], `+more+`}`)
	}
	for _, name := range []string{"thinking_budget", "thinking_token_budget", "thinking_budget_tokens"} {
		for limit, thought := range map[string]float64{"3": 3, "3.0": 3, "-1": 18, "null": 18, "0": 0} {
			a := ask("/v1/chat/completions", fmt.Sprintf("%q: %s", name, limit))
			require.Equal(t, 200, a.StatusCode, a.body)
			require.InDelta(t, thought, field[float64](t, a.body, "usage.completion_tokens_details.reasoning_tokens"), 0, "%s %s", name, limit)
		}
		a := ask("/v1/chat/completions", fmt.Sprintf(`%q: 5, "enable_thinking": false`, name))
		require.InDelta(t, 0, field[float64](t, a.body, "usage.completion_tokens_details.reasoning_tokens"), 0)
		a = ask("/v1/chat/completions", fmt.Sprintf(`%q: -5`, name))
		require.Equal(t, 400, a.StatusCode)
		require.Contains(t, a.body, name+": ")
		a = s.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model": "domains", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}], %q: 5}`, name))
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Equal(t, name, a.Header.Get(headerIgnored), "the model does not think")
	}
}

// How samplers work that are at nothing is no reason to refuse, and neither is what is so anyway.
func TestSettingsOfSamplersThatAreAtNothing(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range [][3]string{
		{"/v1/chat/completions", chatOpen + `, "dynatemp_range": 0, "dynatemp_exponent": 1.0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["x"], "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "top_n_sigma": -1, "min_keep": 0, "n_keep": 0}`,
			"dynatemp_exponent, dry_base, dry_allowed_length, dry_penalty_last_n, dry_sequence_breakers, mirostat_tau, mirostat_eta, n_keep"},
		{"/v1/chat/completions", chatOpen + `, "reasoning_format": "auto"}`, ""},
		{"/v1/messages", messagesOpen + `, "context_hint": {"enabled": true, "target_tokens_saved": 5}}`, "context_hint"},
		{"/tokenize", `{"model": "chat", "content": "x", "parse_special": true}`, ""},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Equal(t, c[2], a.Header.Get(headerIgnored))
	}
	for _, c := range [][3]string{
		{"/v1/chat/completions", chatOpen + `, "dynatemp_range": 0.5}`, "dynatemp_range"}, {"/v1/completions", completeOpen + `, "top_n_sigma": 1}`, "top_n_sigma"},
		{"/v1/chat/completions", chatOpen + `, "reasoning_format": "none"}`, "reasoning_format"}, {"/tokenize", `{"model": "chat", "content": "x", "parse_special": false}`, "parse_special"},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 400, a.StatusCode, a.body)
		require.Contains(t, a.body, c[2])
	}
}
