package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server/anthropic"
	"forge.lthn.ai/core/go-mlx/internal/server/ollama"
	"forge.lthn.ai/core/go-mlx/internal/server/openai"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// plainRequests are requests without anything special, by their tables.
var plainRequests = []struct {
	table *turn.Table
	body  string
}{
	{openai.ChatFields, `{"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}`},
	{openai.CompletionFields, `{"model": "chat", "max_tokens": 2, "prompt": "Hello"}`},
	{openai.ResponseFields, `{"model": "chat", "max_output_tokens": 2, "input": "Hello"}`},
	{openai.EmbeddingFields, `{"model": "domains", "input": "Hello"}`},
	{anthropic.MessageFields, `{"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}`},
	{anthropic.CountFields, `{"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}`},
	{ollama.ChatFields, `{"model": "chat", "stream": false, "options": {"num_predict": 2}, "messages": [{"role": "user", "content": "Hello"}]}`},
	{ollama.GenerateFields, `{"model": "chat", "stream": false, "options": {"num_predict": 2}, "prompt": "Hello"}`},
	{ollama.EmbedFields, `{"model": "domains", "input": "Hello"}`},
	{classifyFields, `{"model": "domains", "texts": ["Boil the rice."], "labels": ["food", "sport"]}`},
}

// with is a request with one more field.
func with(t *testing.T, body, field, value string) string {
	t.Helper()
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &fields))
	var v any
	require.NoError(t, json.Unmarshal([]byte(value), &v))
	fields[field] = v
	data, err := json.Marshal(fields)
	require.NoError(t, err)
	return string(data)
}

// Every row of every table is what it says, at the top of a request; null is the absence of a field, whatever it is.
func TestFieldsAreTreatedAsTheTablesSay(t *testing.T) {
	s := serve(t, Config{})
	strict := serve(t, Config{Strict: true})
	for _, plain := range plainRequests {
		method, path, _ := strings.Cut(plain.table.Route, " ")
		ask := func(s *served, field, value string) answer {
			return s.do(method, path, with(t, plain.body, field, value))
		}
		require.Equal(t, 200, s.do(method, path, plain.body).StatusCode, path)
		for _, f := range plain.table.Fields {
			if strings.ContainsAny(f.Path, ".[*") {
				continue
			}
			where := plain.table.Route + " " + f.Path
			if !strings.Contains(plain.body, `"`+f.Path+`"`) {
				require.Equal(t, 200, ask(s, f.Path, "null").StatusCode, where)
			}
			switch f.Treatment {
			case turn.Unused:
				a := ask(s, f.Path, `"x"`)
				require.Equal(t, 200, a.StatusCode, "%s: %s", where, a.body)
				require.Equal(t, f.Path, a.Header.Get(headerIgnored), where)
				require.Empty(t, ask(s, f.Path, "[]").Header.Get(headerIgnored), where)
				require.Equal(t, 400, ask(strict, f.Path, `"x"`).StatusCode, where)
				require.Equal(t, 200, ask(strict, f.Path, `[]`).StatusCode, where)
			case turn.Neutral:
				for _, value := range f.Values {
					require.Equal(t, 200, ask(s, f.Path, value).StatusCode, "%s %s", where, value)
				}
				require.Equal(t, 400, ask(s, f.Path, `"x"`).StatusCode, where)
			case turn.Refused:
				a := ask(s, f.Path, `{"x": 1}`)
				require.Equal(t, 400, a.StatusCode, where)
				require.Contains(t, a.body, f.Path)
			}
		}
		a := ask(s, "temprature", "1")
		require.Equal(t, 400, a.StatusCode, path)
		require.Contains(t, a.body, "temprature", "a field that nobody knows may be a slip")
	}
}

// What clients give back of answers may hold anything; it is named once, and a name is never more than a header can hold.
func TestMessagesThatClientsSendBackMayHoldUnknownFields(t *testing.T) {
	s := serve(t, Config{})
	a := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 2, "messages": [
		{"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}], "tone": "kind"},
		{"role": "assistant", "content": "Hi", "annotations": [], "audio": null, "tone": "warm", "grüße\n": 1}, {"role": "user", "content": "x"}]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Equal(t, "messages[].content[].cache_control, messages[].tone, messages[].gr%C3%BC%C3%9Fe", a.Header.Get(headerIgnored))
	require.Contains(t, s.log.String(), `"ignored":["messages[].content[].cache_control"`)

	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf(`"field-%d": 1`, i))
	}
	a = s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello", `+strings.Join(many, ", ")+`}]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Less(t, len(a.Header.Get(headerIgnored)), 4096)
}

// A null inside a schema, an argument or a result is a value, not an absence.
func TestNullsInsideValuesStay(t *testing.T) {
	s := serve(t, Config{})
	a := s.do("POST", "/v1/chat/completions", `{"model": "chat", "max_tokens": 40, "messages": [{"role": "user", "content": "Hello"}],
		"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"n": {"enum": [null]}}, "required": ["n"], "additionalProperties": false}}}}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Contains(t, a.body, `null}`)
}

// The tables of the docs are made from those of the code: GO_MLX_WRITE=1 writes them.
func TestTheDocsHaveTheTables(t *testing.T) {
	file := filepath.Join(testenv.Root(), "docs", "server.md")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	const begin, end = "<!-- fields: made by go test ./internal/server -->\n", "<!-- end of fields -->"
	before, rest, found := strings.Cut(string(data), begin)
	require.True(t, found)
	_, after, found := strings.Cut(rest, end)
	require.True(t, found)
	var tables []string
	for _, plain := range plainRequests {
		if plain.table != anthropic.CountFields {
			tables = append(tables, plain.table.Markdown())
		}
	}
	text := before + begin + "\n" + strings.Join(tables, "\n") + "\n" + end + after
	if os.Getenv("GO_MLX_WRITE") != "" {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	require.Equal(t, text, string(data), "run GO_MLX_WRITE=1 go test ./internal/server -run TestTheDocsHaveTheTables")
}
