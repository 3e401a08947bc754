package server

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// The second of two equal requests finds nearly all of its prompt in the cache, and every API says how much.
func TestUsageTellsOfTheCache(t *testing.T) {
	dir := filepath.Join(testenv.Root(), "tests", "models", "assistant")
	cached := mlx.WithPromptCache(64 << 20)
	models, err := mlx.NewHost(mlx.HostOptions{}, []mlx.HostedModel{
		{Name: "native", Path: dir, Options: []mlx.LoadOption{cached}},
		{Name: "python", Path: dir, Options: []mlx.LoadOption{cached, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))}},
		{Name: "without", Path: dir},
	}...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, models.Close()) })
	s, err := New(Config{Models: models})
	require.NoError(t, err)
	last := func(body, field string) int {
		all := regexp.MustCompile(`"`+field+`":(\d+)`).FindAllStringSubmatch(body, -1)
		require.NotEmpty(t, all, "%s in %s", field, body)
		n, err := strconv.Atoi(all[len(all)-1][1])
		require.NoError(t, err)
		return n
	}
	for _, engine := range []string{"native", "python", "without"} {
		for i, c := range []struct{ path, prompt, cached, body string }{
			{"/v1/chat/completions", "prompt_tokens", "cached_tokens", `"max_tokens": 2, "messages": [{"role": "user", "content": "WORDS"}]`},
			{"/v1/chat/completions", "prompt_tokens", "cached_tokens", `"max_tokens": 2, "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "WORDS"}]`},
			{"/v1/chat/completions", "prompt_tokens", "cached_tokens", `"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 2}, "messages": [{"role": "user", "content": "WORDS"}]`},
			{"/v1/chat/completions", "prompt_tokens", "cached_tokens", `"max_tokens": 99, "parallel_tool_calls": false, "tool_choice": "required", "tools": [` + tool("f") + `], "messages": [{"role": "user", "content": "WORDS"}]`},
			{"/v1/completions", "prompt_tokens", "cached_tokens", `"max_tokens": 2, "prompt": "WORDS"`},
			{"/v1/responses", "input_tokens", "cached_tokens", `"max_output_tokens": 2, "input": "WORDS"`},
			{"/v1/messages", "input_tokens", "cache_read_input_tokens", `"max_tokens": 2, "messages": [{"role": "user", "content": "WORDS"}]`},
			{"/v1/messages", "input_tokens", "cache_read_input_tokens", `"max_tokens": 2, "stream": true, "messages": [{"role": "user", "content": "WORDS"}]`},
		} {
			words := strings.Repeat("harbour "+strconv.Itoa(i)+" ", 20)
			body := `{"model": "` + engine + `", ` + strings.ReplaceAll(c.body, "WORDS", words) + `}`
			first := post(t, s, c.path, body)
			require.Equal(t, 200, first.Code, first.Body.String())
			second := post(t, s, c.path, body)
			before, after := last(first.Body.String(), c.cached), last(second.Body.String(), c.cached)
			if engine == "without" {
				require.Zero(t, after)
				continue
			}
			whole := last(first.Body.String(), c.prompt)
			if c.cached == "cache_read_input_tokens" { // Anthropic's input does not hold them
				whole += before
				require.Equal(t, whole, last(second.Body.String(), c.prompt)+after, c.path)
			}
			require.Less(t, before, whole/2, "%s %s", engine, c.path)
			require.GreaterOrEqual(t, after, whole-2, "%s %s: %s", engine, c.path, second.Body.String())
			require.Less(t, after, whole)
		}
	}
}
