package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// Requests take a slot when their body is there: a client that sends nothing, or a byte now and then, has none.
const (
	// moreBodies is how many bodies may be on their way besides as many as there are slots.
	moreBodies = 64
	// slowBody is how long a body may take when others have no room: then the one that began first gives way.
	slowBody = 2 * time.Second
)

// arrivals are the bodies that are being read, so that only so many are held in memory.
type arrivals struct {
	room int // 0 for no limit
	slow time.Duration

	mu   sync.Mutex // guards what follows
	list []*arrival // the one that began first comes first
}

// arrival is a body on its way.
type arrival struct {
	began time.Time
	stop  func() // ends the reading; called with the mutex held
	gone  bool   // it gave way to another one
}

var errNoRoom = &turn.Error{Kind: turn.Busy, Code: "rate_limit_exceeded", Message: "too many requests at once", Retry: time.Second}

// begin makes room for a body, for which a slow one may have to go.
func (a *arrivals) begin(stop func()) (*arrival, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	own := &arrival{began: time.Now(), stop: stop}
	if a.room > 0 && len(a.list) >= a.room {
		first := a.list[0]
		if own.began.Sub(first.began) < a.slow {
			return nil, errNoRoom
		}
		first.gone = true
		first.stop()
		a.list = a.list[1:]
	}
	a.list = append(a.list, own)
	return own, nil
}

// end gives the room back, and reports whether the body had to give way.
func (a *arrivals) end(own *arrival) (gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, other := range a.list {
		if other == own {
			a.list = append(a.list[:i:i], a.list[i+1:]...)
			break
		}
	}
	return own.gone
}

// mayBeJSON reports whether a body may be read as JSON. One whose Content-Type is JSON may. One without a type, or with that of curl -d, as in
// Ollama's own examples, may unless a browser sends it: pages of other origins can send such bodies without asking first.
func mayBeJSON(r *http.Request) bool {
	h := r.Header
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil && kind == "application/json" {
		return true
	}
	unsaid := h.Get("Content-Type") == "" || err == nil && kind == "application/x-www-form-urlencoded"
	return unsaid && h.Get("Origin") == "" && h.Get("Sec-Fetch-Site") == ""
}

// read is the body of a request.
func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if !mayBeJSON(r) {
		return nil, &turn.Error{Kind: turn.MediaType, Message: "Content-Type must be application/json"}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, &turn.Error{Kind: turn.MediaType, Code: "unsupported_encoding", Message: fmt.Sprintf("Content-Encoding is %q; send the body as it is", turn.Short(encoding, maxParam))}
	}
	source := r.Body
	if s.config.MaxBody > 0 {
		source = http.MaxBytesReader(w, source, s.config.MaxBody)
	}
	control := http.NewResponseController(w)
	own, err := s.arrivals.begin(func() { _ = control.SetReadDeadline(time.Unix(1, 0)) }) // some writers of tests have none
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(s.ended, own.stop)()
	body, err := io.ReadAll(source)
	var tooLarge *http.MaxBytesError
	switch gone := s.arrivals.end(own); {
	case gone:
		w.Header().Set("Connection", "close") // the deadline in the past may have ended the connection's context
		return nil, &turn.Error{Kind: turn.Busy, Code: "rate_limit_exceeded", Message: "the body came too slowly while others were waiting", Retry: time.Second}
	case errors.As(err, &tooLarge):
		return nil, tooLarge
	case err != nil && s.ended.Err() != nil:
		return nil, turn.ErrDraining
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &turn.Error{Kind: turn.Invalid, Code: "invalid_request", Message: "the body did not come in time"}
	case err != nil:
		return nil, &turn.Error{Kind: turn.Invalid, Code: "invalid_request", Message: "the body ended too soon: " + err.Error()}
	}
	return body, nil
}
