package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// unfinished sends a request up to the last byte of its body; finish sends that byte, and answer reads what comes.
type unfinished struct {
	t    *testing.T
	conn net.Conn
	last string
}

func (s *served) unfinished(body string) *unfinished {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	n := len(body) - 1
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:n])
	return &unfinished{s.t, conn, body[n:]}
}

func (u *unfinished) finish() {
	_, err := u.conn.Write([]byte(u.last))
	require.NoError(u.t, err)
}

func (u *unfinished) answer() (status int) {
	require.NoError(u.t, u.conn.SetReadDeadline(time.Now().Add(2*time.Minute)))
	response, err := http.ReadResponse(bufio.NewReader(u.conn), nil)
	require.NoError(u.t, err)
	defer response.Body.Close()
	return response.StatusCode
}

// coming is how many bodies are on their way.
func (s *served) coming() int {
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	return len(s.arrivals.list)
}

// Clients that do not send the body that they promised hold no slot, however many there are.
func TestABodyThatDoesNotComeHoldsNoSlot(t *testing.T) {
	s := serve(t, Config{MaxRequests: 1})
	var slow []*unfinished
	for range 5 {
		slow = append(slow, s.unfinished(hello))
	}
	require.Eventually(t, func() bool { return s.coming() == 5 }, 2*time.Minute, time.Millisecond)
	require.Equal(t, 200, s.do("POST", "/v1/chat/completions", hello).StatusCode)
	for _, u := range slow {
		u.finish()
		require.Equal(t, 200, u.answer(), "a slow body is as good as another")
	}
	require.Zero(t, s.coming())
}

// Where there is no room for more bodies, the one that began first gives way, if it has had its time.
func TestASlowBodyGivesWay(t *testing.T) {
	s := serve(t, Config{MaxRequests: 4})
	s.arrivals.room, s.arrivals.slow = 2, time.Hour
	first := s.unfinished(hello)
	require.Eventually(t, func() bool { return s.coming() == 1 }, 2*time.Minute, time.Millisecond)
	second := s.unfinished(hello)
	require.Eventually(t, func() bool { return s.coming() == 2 }, 2*time.Minute, time.Millisecond)
	a := s.do("POST", "/v1/chat/completions", hello)
	require.Equal(t, 429, a.StatusCode, "nobody has had the time to send a body yet")
	require.Equal(t, "1", a.Header.Get("Retry-After"))

	s.arrivals.mu.Lock()
	s.arrivals.slow = 0
	s.arrivals.mu.Unlock()
	require.Equal(t, 200, s.do("POST", "/v1/chat/completions", hello).StatusCode)
	require.Equal(t, 429, first.answer())
	second.finish()
	require.Equal(t, 200, second.answer())
	require.Zero(t, s.coming())
}

// A body that is not JSON, or too long, takes no room.
func TestBodiesThatAreRefusedTakeNoRoom(t *testing.T) {
	s := serve(t, Config{MaxRequests: 1, MaxBody: 1000})
	require.Equal(t, 413, s.do("POST", "/v1/chat/completions", strings.Repeat(" ", 2000)).StatusCode)
	require.Equal(t, 415, s.do("POST", "/v1/chat/completions", hello, "Content-Type", "text/plain").StatusCode)
	require.Equal(t, 415, s.do("POST", "/v1/chat/completions", hello, "Content-Encoding", "gzip").StatusCode)
	require.Zero(t, s.coming())
	require.Equal(t, 200, s.do("POST", "/v1/chat/completions", hello).StatusCode)
}

// The end of a server ends bodies that are on their way, too.
func TestBodiesOnTheirWayEndWithTheServer(t *testing.T) {
	s := serve(t, Config{MaxRequests: 4})
	slow := s.unfinished(hello)
	require.Eventually(t, func() bool { return s.coming() == 1 }, 2*time.Minute, time.Millisecond)
	s.end(turn.ErrDraining)
	require.Equal(t, 503, slow.answer())
	require.Zero(t, s.coming())
}
