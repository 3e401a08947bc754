package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	mlx "forge.lthn.ai/core/go-mlx"
)

// keepAlive is how long a stream may be silent: proxies cut connections that are silent for long.
const keepAlive = 15 * time.Second

// stream writes server-sent events, or lines of JSON. It may be used by several goroutines.
type stream struct {
	ctx     context.Context
	w       http.ResponseWriter
	control *http.ResponseController
	dialect *dialect
	patient time.Duration // for one write; 0 waits for ever
	stop    chan struct{}
	stopped sync.WaitGroup

	mu    sync.Mutex // guards what follows and the writer
	begun bool
	last  time.Time
	wait  string // what the request waits for; "" if for no model
	err   error  // the client is gone
}

// newStream sends nothing before the first event, so that an error can still have a status of its own. A stream that is silent
// for long, while a model loads or reads a prompt, is kept alive.
func (s *Server) newStream(ctx context.Context, w http.ResponseWriter, d *dialect) *stream {
	e := &stream{ctx: ctx, w: w, control: http.NewResponseController(w), dialect: d, patient: s.config.WriteTimeout, stop: make(chan struct{}), last: time.Now()}
	e.stopped.Go(func() {
		tick := time.NewTicker(keepAlive / 3)
		defer tick.Stop()
		for {
			select {
			case <-e.stop:
				return
			case <-tick.C:
				e.mu.Lock()
				if time.Since(e.last) > keepAlive {
					if d.lines {
						e.write([]byte("\n"))
					} else {
						e.write(fmt.Appendf(nil, ": %s\n\n", cmp.Or(e.wait, "still at work")))
					}
				}
				e.mu.Unlock()
			}
		}
	})
	return e
}

// waits notes what the request waits for, for the comments that keep its stream alive.
func (e *stream) waits(w mlx.Wait) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wait = strings.Join(strings.Fields(w.String()), " ") // a comment is one line
}

// close ends the keep-alive; nothing may be written afterwards.
func (e *stream) close() {
	close(e.stop)
	e.stopped.Wait()
}

// header sets headers, unless the stream has begun.
func (e *stream) header(set func(http.Header)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wait = "" // headers are set when the model is there
	if !e.begun {
		set(e.w.Header())
	}
}

// Send writes one event; name may be empty.
func (e *stream) Send(name string, value any) error {
	data, err := json.Marshal(value, json.Deterministic(true))
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var event []byte
	switch {
	case e.dialect.lines:
		event = append(data, '\n')
	case name != "":
		event = fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data)
	default:
		event = fmt.Appendf(nil, "data: %s\n\n", data)
	}
	e.write(event)
	return e.err
}

// Done ends a stream as the API's clients expect it.
func (e *stream) Done() {
	if !e.dialect.done {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.write([]byte("data: [DONE]\n\n")) // a client that has left needs no end
}

// write sends bytes at once; the caller holds the mutex.
func (e *stream) write(data []byte) {
	if e.err != nil {
		return
	}
	if !e.begun {
		e.begun = true
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream")
		if e.dialect.lines {
			h.Set("Content-Type", "application/x-ndjson")
		}
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no")
		e.w.WriteHeader(http.StatusOK)
	}
	e.last = time.Now()
	if deadline, ok := writeDeadline(e.ctx, e.patient); ok {
		_ = e.control.SetWriteDeadline(deadline) // some writers of tests have none
	}
	if _, err := e.w.Write(data); err != nil {
		e.err = fmt.Errorf("the client does not read: %w: %w", context.Canceled, err)
	} else if err := e.control.Flush(); err != nil {
		e.err = fmt.Errorf("the client does not read: %w: %w", context.Canceled, err)
	}
}

// started reports whether anything was sent.
func (e *stream) started() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun
}
