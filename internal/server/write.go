package server

import (
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
)

// writeChunk is how much of an answer is sent at a time: a client has the time for one write to take it.
const writeChunk = 64 << 10

// writeJSON answers with a value. A client that does not read, or next to nothing, is cut off.
func (s *Server) writeJSON(ctx context.Context, w http.ResponseWriter, status int, value any) error {
	data, err := json.Marshal(value, json.Deterministic(true))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	control := http.NewResponseController(w)
	for data = append(data, '\n'); len(data) > 0; {
		n := min(len(data), writeChunk)
		if deadline, ok := writeDeadline(ctx, s.config.WriteTimeout); ok {
			_ = control.SetWriteDeadline(deadline) // some writers of tests have none
		}
		if _, err := w.Write(data[:n]); err != nil {
			visitOf(ctx).err = context.Canceled // the client is gone, or does not read
			break
		}
		data = data[n:]
	}
	if err := control.Flush(); err != nil {
		visitOf(ctx).err = context.Canceled
	}
	return nil
}

// writeDeadline is when a write has to be over: within the time for one, and not long after the whole request's.
func writeDeadline(ctx context.Context, patient time.Duration) (deadline time.Time, ok bool) {
	if patient > 0 {
		deadline, ok = time.Now().Add(patient), true
	}
	if end, limited := ctx.Deadline(); limited {
		if end = end.Add(time.Second); !ok || end.Before(deadline) {
			deadline, ok = end, true
		}
	}
	return deadline, ok
}
