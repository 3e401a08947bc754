package bridge

import (
	"errors"
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// ErrWorkerStopped is wrapped by the error of a request whose worker ended before it answered.
var ErrWorkerStopped = errors.New("python worker stopped")

// WorkerError is a worker process that ended or never came up.
type WorkerError struct {
	State  string // how it ended, e.g. "exit status 1" or "signal: killed"
	Stderr string // the last lines it printed
	Hint   string // what to do about it; may be empty
}

func (e *WorkerError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s", ErrWorkerStopped, e.State)
	if e.Hint != "" {
		fmt.Fprintf(&b, ": %s", e.Hint)
	}
	if e.Stderr != "" {
		fmt.Fprintf(&b, "\nlast lines of its stderr:\n%s", e.Stderr)
	}
	return b.String()
}

func (e *WorkerError) Unwrap() error { return ErrWorkerStopped }

// RemoteError is an error that Python raised while it served a request. The worker goes on.
type RemoteError struct {
	Code      string // "load_failed", "bad_request", "internal", ...
	Message   string
	Traceback string // set for "internal"
}

func (e *RemoteError) Error() string {
	if e.Code == "internal" {
		return fmt.Sprintf("python worker: %s\n%s", e.Message, e.Traceback)
	}
	return "python worker: " + e.Message
}

// remoteError gives a worker's error its Go type.
func remoteError(m *message) error {
	var err error
	switch m.Code {
	case "empty_prompt":
		err = engine.ErrEmptyPrompt
	case "no_chat_template":
		err = engine.ErrNoChatTemplate
	case "context_length":
		err = &engine.ContextLengthError{Tokens: m.Data.Tokens, Limit: m.Data.Limit}
	case "invalid_option":
		err = &engine.OptionError{Option: m.Data.Option, Reason: m.Message}
	default:
		err = &RemoteError{Code: m.Code, Message: m.Message, Traceback: m.Traceback}
	}
	if m.Data.Text != nil {
		return fmt.Errorf("text %d: %w", *m.Data.Text, err)
	}
	return err
}
