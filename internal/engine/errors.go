package engine

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers test for with errors.Is.
var (
	// ErrClosed: the model was closed.
	ErrClosed = errors.New("model is closed")
	// ErrUnsupported: the native engine has no code for this architecture; the python engine may.
	ErrUnsupported = errors.New("not supported by the native engine")
	// ErrInvalidUTF8: a prompt, text, label or stop string is not UTF-8.
	ErrInvalidUTF8 = errors.New("text is not valid UTF-8")
	// ErrEmptyPrompt: a prompt has no tokens.
	ErrEmptyPrompt = errors.New("prompt is empty")
	// ErrNoChatTemplate: the model folder has no chat template; use Generate with a prompt of your own.
	ErrNoChatTemplate = errors.New("model has no chat template")
)

// OptionError says which option cannot be honoured, and why.
type OptionError struct {
	Option string
	Reason string
}

func (e *OptionError) Error() string { return fmt.Sprintf("option %s: %s", e.Option, e.Reason) }

// ContextLengthError is a prompt that does not fit into the model's context.
type ContextLengthError struct {
	Tokens int // tokens of the prompt
	Limit  int // the model's context length
}

func (e *ContextLengthError) Error() string {
	return fmt.Sprintf("prompt has %d tokens; the model takes fewer than %d: shorten the prompt", e.Tokens, e.Limit)
}

// CheckpointError lists everything that is wrong with a model folder's weights.
type CheckpointError struct {
	Path     string
	Problems []string
}

func (e *CheckpointError) Error() string {
	const most = 8
	shown := e.Problems
	more := ""
	if len(shown) > most {
		more = fmt.Sprintf("; and %d more", len(shown)-most)
		shown = shown[:most]
	}
	return fmt.Sprintf("checkpoint %s: %s%s", e.Path, strings.Join(shown, "; "), more)
}
