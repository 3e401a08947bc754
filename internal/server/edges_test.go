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
