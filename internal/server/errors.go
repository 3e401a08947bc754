package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/anthropic"
	"forge.lthn.ai/core/go-mlx/internal/server/ollama"
	"forge.lthn.ai/core/go-mlx/internal/server/openai"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// Limits of what an error says: it may name what a client sent, of any length.
const (
	maxMessage = 2000
	maxParam   = 200
)

// explain turns any error into what clients see; names are the called API's names of fields.
func explain(err error, names turn.Names) *turn.Error {
	e := *kindOf(err, names)
	e.Message, e.Param = turn.Short(e.Message, maxMessage), turn.Short(e.Param, maxParam)
	return &e
}

func kindOf(err error, names turn.Names) *turn.Error {
	var (
		tooLarge *http.MaxBytesError
		unknown  *mlx.UnknownModelError
		retry    *mlx.RetryError
	)
	switch {
	case errors.As(err, &tooLarge):
		return &turn.Error{Kind: turn.TooLarge, Code: "request_too_large", Message: fmt.Sprintf("the request has more than %d bytes", tooLarge.Limit)}
	case errors.As(err, &unknown):
		return &turn.Error{Kind: turn.NotFound, Code: "model_not_found", Param: "model", Message: err.Error()}
	case errors.As(err, &retry):
		return &turn.Error{Kind: turn.Unavailable, Code: "model_unavailable", Param: "model", Message: err.Error(), Retry: retry.After}
	case errors.Is(err, mlx.ErrHostClosed):
		return &turn.Error{Kind: turn.Unavailable, Code: "shutting_down", Message: err.Error(), Retry: 5 * time.Second}
	}
	return turn.Explain(err, names)
}

// dialect holds the differences between the APIs besides requests and answers.
type dialect struct {
	errorBody func(*turn.Error) any
	lines     bool // streams are lines of JSON, not server-sent events
	done      bool // a stream of events ends in [DONE]
}

var (
	openAI       = &dialect{errorBody: openai.ErrorBody, done: true}
	responsesAPI = &dialect{errorBody: openai.ErrorBody}
	anthropicAPI = &dialect{errorBody: anthropic.ErrorBody}
	ollamaAPI    = &dialect{errorBody: ollama.ErrorBody, lines: true}
)

// dialectOf is the API that a request is for, by its path, before which there may be a base path. The lists of models are of two APIs;
// Anthropic's clients say who they are.
func dialectOf(r *http.Request) *dialect {
	at := func(path string) bool { return strings.Contains(r.URL.Path+"/", path) }
	switch {
	case at("/v1/messages/"), at("/v1/models/") && r.Header.Get("Anthropic-Version") != "":
		return anthropicAPI
	case at("/api/") && !at("/v1/"):
		return ollamaAPI
	}
	return openAI
}

// writeError answers with an error. It can be called only before the answer has begun.
func (d *dialect) writeError(w http.ResponseWriter, e *turn.Error) {
	if e.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(max(1, e.Retry.Seconds()))))
	}
	data, err := json.Marshal(d.errorBody(e), json.Deterministic(true))
	if err != nil { // strings always can
		data = []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Kind.Status())
	_, _ = w.Write(append(data, '\n')) // a client that is gone
}
