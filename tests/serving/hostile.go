package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// crowd is clients that a server has to bear: some do not read what they asked for, some leave at once, some send what is huge or
// no request at all.
type crowd struct {
	asked atomic.Int64
	stop  context.CancelFunc
	group sync.WaitGroup
}

// harass starts so many hostile clients, each of which begins again when it is done.
func (s *server) harass(ctx context.Context, n int) *crowd {
	ctx, cancel := context.WithCancel(ctx)
	c := &crowd{stop: cancel}
	long := fmt.Sprintf(`{"model": %q, "prompt": "where", "max_tokens": 2000, "temperature": 1, "stream": true}`, s.model)
	whole := strings.Replace(long, "true", "false", 1)
	attacks := []func(net.Conn){
		func(conn net.Conn) { send(conn, long); wait(ctx, 10*time.Second) },                                      // reads nothing
		func(conn net.Conn) { send(conn, long) },                                                                 // leaves at once
		func(conn net.Conn) { send(conn, whole); wait(ctx, 50*time.Millisecond) },                                // leaves a little later
		func(conn net.Conn) { send(conn, strings.Repeat("[", 1<<20)) },                                           // no JSON
		func(conn net.Conn) { send(conn, strings.Replace(long, "where", strings.Repeat("where ", 500_000), 1)) }, // a huge prompt
		func(conn net.Conn) {
			fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
			wait(ctx, 2*time.Second)
		},
		func(conn net.Conn) { _, _ = conn.Write([]byte("\x16\x03\x01 no HTTP\r\n\r\n")) },
	}
	for i := range n {
		c.group.Go(func() {
			for at := i; ctx.Err() == nil; at++ {
				conn, err := net.DialTimeout("tcp", s.host(), 5*time.Second)
				if err != nil {
					wait(ctx, 100*time.Millisecond)
					continue
				}
				_ = conn.(*net.TCPConn).SetReadBuffer(1024)
				_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
				c.asked.Add(1)
				attacks[at%len(attacks)](conn)
				conn.Close()
			}
		})
	}
	return c
}

// end waits until all have left, and says how often they came.
func (c *crowd) end() int64 {
	c.stop()
	c.group.Wait()
	return c.asked.Load()
}

func (s *server) host() string {
	u, err := url.Parse(s.url)
	if err != nil {
		return ""
	}
	return u.Host
}

func send(conn net.Conn, body string) {
	_, _ = fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// free waits until no request is at work any more; it is for servers of this project, which tell.
func (s *server) free(ctx context.Context, patience time.Duration) error {
	var busy int
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); wait(ctx, 100*time.Millisecond) {
		response, err := http.Get("http://" + s.host() + "/v1/status")
		if err != nil {
			return err
		}
		data, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		var status struct{ Models []struct{ Active int } }
		if err := json.Unmarshal(data, &status); err != nil {
			return err
		}
		if len(status.Models) == 0 {
			return errors.New("the server tells of no models")
		}
		if busy = status.Models[0].Active; busy == 0 {
			return nil
		}
	}
	return fmt.Errorf("%d requests are still at work %v after the last client has left", busy, patience)
}
