package bridge

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Errors that callers test for with errors.Is.
var (
	// ErrWorkerStopped: a worker ended before it answered.
	ErrWorkerStopped = errors.New("python worker stopped")
	// ErrBusy: every worker is full and so is the queue; try again later, or allow more.
	ErrBusy = errors.New("all python workers are busy")
	// ErrCrashLoop: workers crash one after the other, and for a while no new one is started.
	ErrCrashLoop = errors.New("python workers crash in a loop")
	// ErrQuarantined: this request ended two workers and is not given to a third.
	ErrQuarantined = errors.New("request is quarantined")
	// ErrBudget: a worker would not fit into the memory budget, even alone.
	ErrBudget = engine.ErrBudget
	// ErrPlatform: workers do not run on this operating system.
	ErrPlatform = errors.New("the python engine does not run")
	// ErrOutOfMemory: a request needed more memory than there is. Its worker lives on.
	ErrOutOfMemory = errors.New("out of memory")
)

// BusyError is the error of a request that found the queue full.
type BusyError struct {
	Waiting int // requests in the queue that no worker had before
	Workers int // workers at work
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%v: %d workers, and %d requests wait already", ErrBusy, e.Workers, e.Waiting)
}

func (e *BusyError) Unwrap() error { return ErrBusy }

// CrashLoopError is the error of a request that came while no worker is started because the last ones crashed.
type CrashLoopError struct {
	Crashes int           // in a row
	Retry   time.Duration // when the next worker will be tried
	Err     error         // what happened to the last one
}

func (e *CrashLoopError) Error() string {
	return fmt.Sprintf("%v: %d crashes in a row; the next try is in %v; the last: %v", ErrCrashLoop, e.Crashes, e.Retry.Round(time.Second), e.Err)
}

func (e *CrashLoopError) Unwrap() []error { return []error{ErrCrashLoop, e.Err} }

// QuarantineError is the error of a request that ended two workers.
type QuarantineError struct {
	File    string // where the request was written for diagnosis; empty if that failed
	FileErr error  // why it was not written
	Err     error  // what happened to the last worker
}

func (e *QuarantineError) Error() string {
	where := "see " + e.File
	if e.File == "" {
		where = fmt.Sprintf("no repro file: %v", e.FileErr)
	}
	return fmt.Sprintf("%v: it ended two workers (%s): %v", ErrQuarantined, where, e.Err)
}

func (e *QuarantineError) Unwrap() []error { return []error{ErrQuarantined, e.Err} }

// BudgetError is the error of a worker that does not fit into a memory budget.
type BudgetError = engine.BudgetError

// WorkerError is the error of requests whose worker process ended or never came up.
type WorkerError struct {
	State  string // how it ended, e.g. "exit status 1" or "signal: killed"
	Stderr string // the last lines it printed
	Hint   string // what to do about it; may be empty
	Err    error  // why it could not be started, or why the supervisor killed it; nil if it ended by itself
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

func (e *WorkerError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrWorkerStopped}
	}
	return []error{ErrWorkerStopped, e.Err}
}

// EmbedError is the error of Embed for a model whose hidden states mlx-lm does not give. All else the model may do.
type EmbedError struct {
	Architecture string
	Reason       string
}

func (e *EmbedError) Error() string {
	return fmt.Sprintf("the python engine makes no vectors with architecture %q: %s; use the native engine if it has this architecture, or another model",
		e.Architecture, e.Reason)
}

func (e *EmbedError) Unwrap() error { return engine.ErrUnsupported }

// RemoteError is an error that Python raised while it served a request. The worker goes on.
type RemoteError struct {
	Code      string // "load_failed", "bad_request", "internal", ...
	Message   string
	Traceback string // of exceptions that the worker did not expect
}

func (e *RemoteError) Error() string {
	if e.Traceback != "" {
		return fmt.Sprintf("python worker: %s\n%s", e.Message, e.Traceback)
	}
	return "python worker: " + e.Message
}

func (e *RemoteError) Unwrap() error {
	if e.Code == "out_of_memory" {
		return ErrOutOfMemory
	}
	return nil
}

// remoteError gives a worker's error its Go type.
func remoteError(m *message) error {
	var err error
	switch m.Code {
	case "invalid_utf8":
		err = fmt.Errorf("%w: %s", engine.ErrInvalidUTF8, m.Message)
	case "empty_prompt":
		err = engine.ErrEmptyPrompt
	case "no_chat_template":
		err = engine.ErrNoChatTemplate
	case "context_length":
		err = &engine.ContextLengthError{Tokens: m.Data.Tokens, Limit: m.Data.Limit}
	case "token_id":
		err = &engine.TokenError{ID: m.Data.TokenID, VocabSize: m.Data.VocabSize}
	case "control_token":
		err = &engine.ControlTokenError{Token: m.Data.Token}
	case "no_embeddings":
		err = &EmbedError{Architecture: m.Data.Architecture, Reason: m.Message}
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
