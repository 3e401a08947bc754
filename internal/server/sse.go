package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// keepAlive is how long a stream may be silent: proxies cut connections that are silent for long.
const keepAlive = 15 * time.Second

// sse writes server-sent events. It may be used by several goroutines.
type sse struct {
	w       http.ResponseWriter
	control *http.ResponseController
	patient time.Duration // for one write; 0 waits for ever
	stop    chan struct{}
	stopped sync.WaitGroup

	mu    sync.Mutex // guards what follows and the writer
	begun bool
	last  time.Time
	err   error // the client is gone
}

// newSSE sends nothing before the first event, so that an error can still have a status of its own.
func (s *Server) newSSE(w http.ResponseWriter) *sse {
	e := &sse{w: w, control: http.NewResponseController(w), patient: s.config.WriteTimeout, stop: make(chan struct{}), last: time.Now()}
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
					e.write([]byte(": still at work\n\n"))
				}
				e.mu.Unlock()
			}
		}
	})
	return e
}

// close ends the keep-alive; nothing may be written afterwards.
func (e *sse) close() {
	close(e.stop)
	e.stopped.Wait()
}

// send writes one event; name may be empty.
func (e *sse) send(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return e.sendRaw(name, data)
}

// done ends a stream as OpenAI's clients expect it.
func (e *sse) done() {
	_ = e.sendRaw("", []byte("[DONE]")) // who is gone by now misses nothing
}

func (e *sse) sendRaw(name string, data []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var event []byte
	if name != "" {
		event = fmt.Appendf(nil, "event: %s\n", name)
	}
	event = append(append(append(event, "data: "...), data...), "\n\n"...)
	e.write(event)
	return e.err
}

// write sends bytes at once; the caller holds the mutex.
func (e *sse) write(data []byte) {
	if e.err != nil {
		return
	}
	if !e.begun {
		e.begun = true
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no")
		e.w.WriteHeader(http.StatusOK)
	}
	e.last = time.Now()
	if e.patient > 0 {
		_ = e.control.SetWriteDeadline(e.last.Add(e.patient)) // some writers of tests have none
	}
	if _, e.err = e.w.Write(data); e.err == nil {
		e.err = e.control.Flush()
	}
}

// started reports whether anything was sent.
func (e *sse) started() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun
}
