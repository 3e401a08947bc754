package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// list is a JSON list of n items.
func list(n int, item func(i int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return "[" + strings.Join(items, ",") + "]"
}

// What one request may ask for has limits, and they are checked before any work begins: no model is loaded for these.
func TestOneRequestMayNotAskForEverything(t *testing.T) {
	s := serve(t, Config{})
	text := func(int) string { return `"a"` }
	number := func(i int) string { return fmt.Sprintf(`"%d"`, i) }
	offered := func(i int) string { return tool(fmt.Sprintf("f%d", i)) }
	const hi = `"messages": [{"role": "user", "content": "x"}]`
	for _, c := range [][3]string{
		{"/v1/classify", `{"model": "domains", "texts": ["a"], "labels": ` + list(900_000, number) + `}`, "labels"},
		{"/v1/classify", `{"model": "domains", "labels": ["a"], "texts": ` + list(100_000, text) + `}`, "texts"},
		{"/v1/classify", `{"model": "domains", "stream": true, "labels": ["a"], "texts": ` + list(100_000, text) + `}`, "texts"},
		{"/v1/embeddings", `{"model": "domains", "input": ` + list(turn.MaxEmbeddings+1, text) + `}`, "input"},
		{"/v1/embeddings", `{"model": "domains", "input": ` + list(turn.MaxEmbeddings+1, func(int) string { return "[1]" }) + `}`, "input"},
		{"/api/embed", `{"model": "domains", "input": ` + list(turn.MaxEmbeddings+1, text) + `}`, "input"},
		{"/v1/completions", `{"model": "chat", "prompt": ` + list(turn.MaxAnswers+1, text) + `}`, "prompt"},
		{"/v1/completions", `{"model": "chat", "n": 16, "prompt": ` + list(turn.MaxAnswers/16+1, text) + `}`, "prompt"},
		{"/v1/chat/completions", `{"model": "chat", "n": 17, ` + hi + `}`, "n"},
		{"/v1/chat/completions", `{"model": "chat", "stop": ` + list(turn.MaxStops+1, number) + `, ` + hi + `}`, "stop"},
		{"/v1/messages", `{"model": "chat", "max_tokens": 1, "stop_sequences": ["` + strings.Repeat("x", turn.MaxStopBytes+1) + `"], ` + hi + `}`, "stop_sequences"},
		{"/v1/chat/completions", `{"model": "chat", "tools": ` + list(turn.MaxTools+1, offered) + `, ` + hi + `}`, "tools"},
		{"/v1/responses", `{"model": "chat", "input": ` + list(turn.MaxMessages+1, func(int) string { return `{"role": "user", "content": "x"}` }) + `}`, "input"},
	} {
		a := s.do("POST", c[0], c[1])
		require.Equal(t, 400, a.StatusCode, a.body)
		require.Contains(t, a.body, c[2]+": ")
	}
	for _, name := range []string{"chat", "domains"} {
		require.Zero(t, s.state(name).Loads, name)
	}
}

// A client that does not read a whole answer gives its slot back in time, and so does one that reads next to nothing.
func TestAnAnswerThatIsNotReadFreesItsSlot(t *testing.T) {
	for name, read := range map[string]func(net.Conn, <-chan struct{}){
		"never": func(_ net.Conn, over <-chan struct{}) { <-over },
		"a drop at a time": func(c net.Conn, over <-chan struct{}) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-over:
					return
				case <-tick.C:
					_, _ = c.Read(make([]byte, 16))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{MaxRequests: 1, WriteTimeout: time.Second})
			s.do("POST", "/v1/embeddings", `{"model": "domains", "input": "a"}`)
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(1024))
			body := `{"model": "domains", "input": ` + list(1500, func(int) string { return `"a"` }) + `}`
			fmt.Fprintf(conn, "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			over := make(chan struct{})
			reading := make(chan struct{})
			go func() { defer close(reading); read(conn, over) }()
			require.Eventually(t, func() bool { return strings.Contains(s.log.String(), `"status":499`) }, 2*time.Minute, 10*time.Millisecond)
			require.Eventually(t, func() bool { return len(s.slots) == 0 }, 2*time.Minute, 10*time.Millisecond)
			require.Equal(t, 200, s.do("POST", "/v1/embeddings", `{"model": "domains", "input": "a"}`).StatusCode)
			close(over)
			<-reading
		})
	}
}

// A panic in one of several answers is that request's error, and the server lives on.
func TestAPanicBesideTheRequestIsItsError(t *testing.T) {
	err := turn.Each(t.Context(), 2, func(_ context.Context, i int) error {
		if i == 1 {
			panic("oh")
		}
		return nil
	})
	var fault *turn.PanicError
	require.True(t, errors.As(err, &fault))
	require.Contains(t, fault.Error(), "oh")
	told := explain(err, nil)
	require.Equal(t, 500, told.Kind.Status())
	require.NotContains(t, told.Message, "goroutine")
}

// Before the listener closes, /readyz says no while requests are still served.
func TestReadyzSaysNoBeforeTheEnd(t *testing.T) {
	s := serve(t, Config{ReadyDelay: 3 * time.Second})
	over := make(chan time.Time)
	s.after = func(d time.Duration) <-chan time.Time {
		if d != 3*time.Second {
			t.Errorf("it waits for %v", d)
		}
		return over
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url := "http://" + l.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, time.Hour) }()
	get := func(path string) int {
		response, err := http.Get(url + path)
		require.NoError(t, err)
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	require.Equal(t, 200, get("/readyz"))
	stop()
	require.Eventually(t, s.leaving.Load, 2*time.Minute, time.Millisecond)
	require.Equal(t, 503, get("/readyz"))
	require.Equal(t, 200, get("/healthz"))
	response, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(hello))
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, 200, response.StatusCode)
	require.False(t, s.draining.Load())
	close(over)
	require.NoError(t, <-ended)
	require.True(t, s.draining.Load())
}

// Log-probabilities of prompts are bounded for the whole request, before they are computed.
func TestEchoesAreBounded(t *testing.T) {
	s := serve(t, Config{})
	prompt := "[" + strings.Repeat("5,", 3899) + "5]"
	ask := func(prompts, top int) answer {
		return s.do("POST", "/v1/completions", fmt.Sprintf(`{"model": "chat", "echo": true, "logprobs": %d, "max_tokens": 0, "prompt": [%s]}`,
			top, strings.TrimSuffix(strings.Repeat(prompt+",", prompts), ",")))
	}
	a := ask(3, 100)
	require.Equal(t, 400, a.StatusCode)
	require.Contains(t, a.body, `"param":"logprobs"`)
	require.Contains(t, a.body, "1048576")
	require.Equal(t, 400, ask(1, 101).StatusCode)
	require.Equal(t, 200, ask(1, 1).StatusCode)
}
