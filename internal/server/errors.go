package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// apiError is an error as a client sees it.
type apiError struct {
	Status  int
	Kind    string // as in OpenAI's "type"
	Code    string // as in OpenAI's "code"; may be empty
	Param   string // the field that is to blame; may be empty
	Message string
	Retry   time.Duration // when to try again; 0 for not said
}

func (e *apiError) Error() string { return e.Message }

// badField is a request whose field cannot be honoured.
func badField(field, format string, args ...any) *apiError {
	return &apiError{
		Status: http.StatusBadRequest, Kind: kindInvalid, Code: "invalid_value", Param: field,
		Message: field + ": " + fmt.Sprintf(format, args...),
	}
}

const kindInvalid = "invalid_request_error"

// fields are the request fields behind the options that the engines name in their errors.
var fields = map[string]string{
	"MaxTokens": "max_tokens", "Temperature": "temperature", "TopK": "top_k", "TopP": "top_p", "MinP": "min_p",
	"RepetitionPenalty": "repetition_penalty", "RepetitionContext": "repetition_context_size", "PresencePenalty": "presence_penalty",
	"FrequencyPenalty": "frequency_penalty", "LogitBias": "logit_bias", "XTC": "xtc_probability", "Stop": "stop",
	"TopLogProbs": "top_logprobs", "Segments": "tools", "Tools": "tools", "TemplateArguments": "chat_template_kwargs",
	"JSONSchema": "response_format", "Grammar": "tool_choice", "Embed": "model", "Dimensions": "dimensions", "labels": "labels",
	"LabelPrompt": "prompt", "Calibration": "temperature", "Abstain": "abstain_below", "Messages": "messages", "PromptName": "prompt_name",
}

// explain gives any error its form for clients.
func explain(err error) *apiError {
	var (
		api     *apiError
		option  *mlx.OptionError
		length  *mlx.ContextLengthError
		token   *mlx.TokenError
		unknown *registry.UnknownModelError
		busy    *http.MaxBytesError
	)
	bad := func(code, param string) *apiError {
		return &apiError{Status: http.StatusBadRequest, Kind: kindInvalid, Code: code, Param: param, Message: err.Error()}
	}
	unavailable := func(status int, code string, retry time.Duration) *apiError {
		return &apiError{Status: status, Kind: "server_error", Code: code, Message: err.Error(), Retry: retry}
	}
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &busy):
		return &apiError{Status: http.StatusRequestEntityTooLarge, Kind: kindInvalid, Code: "request_too_large", Message: fmt.Sprintf("the request has more than %d bytes", busy.Limit)}
	case errors.As(err, &unknown):
		return &apiError{Status: http.StatusNotFound, Kind: kindInvalid, Code: "model_not_found", Param: "model", Message: err.Error()}
	case errors.As(err, &option):
		field := cmp.Or(fields[option.Option], option.Option)
		return badField(field, "%s", option.Reason)
	case errors.As(err, &length):
		return bad("context_length_exceeded", "messages")
	case errors.As(err, &token), errors.Is(err, mlx.ErrEmptyPrompt), errors.Is(err, mlx.ErrInvalidUTF8), errors.Is(err, mlx.ErrNoChatTemplate):
		return bad("invalid_value", "")
	case errors.Is(err, mlx.ErrUnsupported):
		return bad("unsupported", "model")
	case errors.Is(err, mlx.ErrBusy):
		return &apiError{Status: http.StatusTooManyRequests, Kind: "rate_limit_error", Code: "rate_limit_exceeded", Message: err.Error(), Retry: time.Second}
	case errors.Is(err, mlx.ErrCrashLoop):
		return unavailable(http.StatusServiceUnavailable, "crash_loop", 30*time.Second)
	case errors.Is(err, mlx.ErrBudget), errors.Is(err, mlx.ErrOutOfMemory):
		return unavailable(http.StatusServiceUnavailable, "out_of_memory", 5*time.Second)
	case errors.Is(err, errDraining), errors.Is(err, registry.ErrClosed), errors.Is(err, mlx.ErrClosed):
		return unavailable(http.StatusServiceUnavailable, "shutting_down", 5*time.Second)
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable(http.StatusGatewayTimeout, "timeout", 0)
	case errors.Is(err, context.Canceled):
		return unavailable(statusClientGone, "cancelled", 0)
	}
	return unavailable(http.StatusInternalServerError, "internal", 0)
}

// statusClientGone stands in logs and metrics for a client that did not wait; nobody receives it.
const statusClientGone = 499

// dialect writes errors as the clients of an API expect them.
type dialect int

const (
	openAI dialect = iota
	anthropic
)

func (d dialect) body(e *apiError) any {
	if d == anthropic {
		kind := map[int]string{
			400: kindInvalid, 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
			413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
		}[e.Status]
		return map[string]any{"type": "error", "error": map[string]any{"type": cmp.Or(kind, "api_error"), "message": e.Message}}
	}
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return map[string]any{"error": map[string]any{"message": e.Message, "type": e.Kind, "param": orNull(e.Param), "code": orNull(e.Code)}}
}

// writeError answers with an error; it is too late for that once the answer has begun.
func (d dialect) writeError(w http.ResponseWriter, e *apiError) {
	if e.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(max(1, e.Retry.Seconds()))))
	}
	writeJSON(w, e.Status, d.body(e))
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil { // our own types always can
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a client that is gone
}
