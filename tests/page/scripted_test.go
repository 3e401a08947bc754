package page_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"forge.lthn.ai/core/go-mlx/internal/page"
)

// scripted is a server whose answers a test dictates, so that the page can be brought into states that a real one is in for moments only.
type scripted struct {
	*httptest.Server
	mu     sync.Mutex // guards what follows
	models []map[string]any
	answer http.HandlerFunc // of POST requests
	status int              // of GET /v1/status, if it is an error
	late   chan struct{}    // the next GET /v1/status is answered when it is closed, with what was true when it came
}

func startScripted(t *testing.T) *scripted {
	s := &scripted{models: []map[string]any{model("gemma-3-1b", "ready")}}
	s.answer = func(w http.ResponseWriter, r *http.Request) { pieces(w, "native", "", "An answer.") }
	files := page.Handler()
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		models, answer, status := s.models, s.answer, s.status
		var late chan struct{}
		if r.URL.Path == "/v1/status" {
			late, s.late = s.late, nil
		}
		s.mu.Unlock()
		if late != nil {
			<-late
		}
		switch {
		case r.Method == http.MethodPost:
			answer(w, r)
		case r.URL.Path == "/v1/status" && status != 0:
			problem(w, status, "this server wants an API key")
		case r.URL.Path == "/v1/status":
			_ = json.NewEncoder(w).Encode(map[string]any{"models": models})
		default:
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// set changes what the server does.
func (s *scripted) set(change func(s *scripted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// model is what /v1/status says of a model in a phase.
func model(name, phase string, more ...any) map[string]any {
	m := map[string]any{"name": name, "phase": phase, "thinks": true, "context_length": 32768}
	if phase == "ready" {
		m["engine"], m["device"] = "native", "cpu:0"
		m["memory"] = map[string]any{"weights": 1_999_811_584, "kv": 54_525_952, "prompt_cache": 134_217_728, "active": 2_188_554_240, "peak": 2_315_255_808, "live_arrays": 1204}
	}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

func problem(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": message}})
}

// event sends one event of a stream.
func event(w http.ResponseWriter, data any) {
	line, _ := json.Marshal(data)
	_, _ = fmt.Fprintf(w, "data: %s\n\n", line)
	w.(http.Flusher).Flush()
}

func delta(field, text string) map[string]any {
	return map[string]any{"choices": []any{map[string]any{"delta": map[string]any{field: text}}}}
}

// begin sends a thought and a text, in pieces, and leaves the stream open.
func begin(w http.ResponseWriter, engine, thought, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Go-MLX-Engine", engine)
	for field, all := range map[string]string{"reasoning_content": thought} {
		if all != "" {
			event(w, delta(field, all))
		}
	}
	for _, piece := range strings.SplitAfter(text, " ") {
		event(w, delta("content", piece))
	}
}

// pieces sends a whole answer.
func pieces(w http.ResponseWriter, engine, thought, text string) {
	begin(w, engine, thought, text)
	end(w, "stop")
}

func end(w http.ResponseWriter, reason string) {
	event(w, map[string]any{"choices": []any{map[string]any{"delta": map[string]any{}, "finish_reason": reason}},
		"usage": map[string]any{"prompt_tokens": 412, "completion_tokens": 186, "total_tokens": 598}})
	_, _ = fmt.Fprint(w, "data: [DONE]\n\n")
}

// holding begins an answer that does not end before its reader leaves.
func holding(thought, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begin(w, "native", thought, text)
		<-r.Context().Done()
	}
}
