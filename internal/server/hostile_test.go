package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Hostile clients and good ones ask at once: the good ones lose nothing, and in the end every slot, lease and byte is back.
func TestHostileClientsBesideGoodOnes(t *testing.T) {
	s := serve(t, Config{MaxRequests: 16, WriteTimeout: time.Second, RequestTimeout: 2 * time.Minute, MaxBody: 1 << 20})
	s.do("POST", "/v1/chat/completions", hello)
	s.do("POST", "/v1/embeddings", `{"model": "domains", "input": "a"}`)
	raw := func(path, body string, hold func(net.Conn)) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(1024)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		hold(conn)
	}
	// until waits for the server to cut a client off that reads nothing.
	until := func(conn net.Conn) {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		<-time.After(3 * time.Second)
		_, _ = io.Copy(io.Discard, conn)
	}
	embed := `{"model": "domains", "input": ` + list(1000, func(int) string { return `"a"` }) + `}`
	noisy := `{"model": "chat", "prompt": "x", "max_tokens": 2000, "logit_bias": {"2": -100}, "stream": true, "logprobs": 100}`
	promised := func() { // a body that never comes
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{")
		until(conn)
	}
	hostile := []func(){
		promised, promised, promised, promised, promised, promised,
		func() { raw("/v1/embeddings", embed, until) },
		func() { raw("/v1/completions", noisy, until) },
		func() { raw("/v1/completions", noisy, func(net.Conn) {}) }, // leaves at once
		func() {
			raw("/v1/completions", fmt.Sprintf(endless, false), func(c net.Conn) { _, _ = c.Write([]byte("garbage after the body")) })
		},
		func() {
			raw("/v1/classify", `{"model": "domains", "texts": ["a"], "labels": `+list(50_000, func(i int) string { return fmt.Sprintf(`"%d"`, i) })+`}`, until)
		},
		func() { raw("/v1/chat/completions", strings.Repeat("[", 100_000), until) },
		func() {
			raw("/v1/messages", `{"model": "chat", "max_tokens": 1, "messages": `+strings.Repeat(" ", 2<<20), until)
		},
	}
	var bad, good sync.WaitGroup
	for range 3 {
		for _, attack := range hostile {
			bad.Go(attack)
		}
	}
	answers := make(chan string, 40)
	for range 8 {
		good.Go(func() {
			for range 5 {
				answers <- s.patient(hello)
			}
		})
	}
	good.Wait()
	close(answers)
	for answer := range answers {
		require.Contains(t, answer, "very small model")
	}
	bad.Wait()
	require.Eventually(t, func() bool {
		return len(s.slots) == 0 && s.coming() == 0 && s.state("chat").Active == 0 && s.state("domains").Active == 0
	}, 3*time.Minute, 10*time.Millisecond)
	metrics, err := s.state("chat").Model.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.KVBytes)
	require.NotContains(t, s.log.String(), "panic")
}

// patient asks as the official clients do: a server that is full is asked again.
func (s *served) patient(body string) string {
	for {
		r, err := http.NewRequestWithContext(context.Background(), "POST", s.url+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			return err.Error()
		}
		r.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return err.Error()
		}
		data, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err.Error()
		}
		if response.StatusCode != http.StatusTooManyRequests {
			return string(data)
		}
		time.Sleep(50 * time.Millisecond) // Retry-After, for a test
	}
}
