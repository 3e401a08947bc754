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
	// ErrUnsupported: the engine has no code for this architecture, or for what is asked of it; the other engine may.
	ErrUnsupported = errors.New("not supported by the native engine")
	// ErrInvalidUTF8: a prompt, text, label or stop string is not UTF-8.
	ErrInvalidUTF8 = errors.New("text is not valid UTF-8")
	// ErrEmptyPrompt: a prompt has no tokens.
	ErrEmptyPrompt = errors.New("prompt is empty")
	// ErrNoChatTemplate: the model folder has no chat template; use Generate with a prompt of your own.
	ErrNoChatTemplate = errors.New("model has no chat template")
	// ErrBudget: a model or a request would not fit into the memory budget.
	ErrBudget = errors.New("memory budget exceeded")
)

// BudgetError says what does not fit into a memory budget, in bytes.
type BudgetError struct {
	What                 string // e.g. "a worker"
	Needed, Used, Budget int64
	Pinned               int64 // of Used, what cannot be freed for it
}

func (e *BudgetError) Error() string {
	const mib = 1 << 20
	return fmt.Sprintf("%v: %s needs about %d MiB; of a budget of %d MiB %d MiB are used, %d MiB cannot be given back",
		ErrBudget, e.What, e.Needed/mib, e.Budget/mib, e.Used/mib, e.Pinned/mib)
}

// Unwrap is ErrBudget.
func (e *BudgetError) Unwrap() error { return ErrBudget }

// OptionError says which option cannot be honoured, and why. Option is the name that the caller wrote: a field of the options of this
// package, or the function of package mlx that sets it.
type OptionError struct {
	Option string
	Reason string
	Err    error // for errors.Is and errors.As, such as ErrInvalidUTF8; usually nil
}

func (e *OptionError) Error() string { return fmt.Sprintf("option %s: %s", e.Option, e.Reason) }

// Unwrap is Err.
func (e *OptionError) Unwrap() error { return e.Err }

// ContextLengthError is the error of a prompt that does not fit into the model's context.
type ContextLengthError struct {
	Tokens int // tokens of the prompt
	Limit  int // the model's context length
}

func (e *ContextLengthError) Error() string {
	return fmt.Sprintf("prompt has %d tokens; the model takes fewer than %d: shorten the prompt", e.Tokens, e.Limit)
}

// TokenError is the error of a token id outside the model's vocabulary.
type TokenError struct {
	ID        int32
	VocabSize int // of the model
}

func (e *TokenError) Error() string {
	return fmt.Sprintf("token id %d is outside the model's vocabulary of %d: leave its token (of an image, say) out of the text, or use the tokenizer that belongs to these weights", e.ID, e.VocabSize)
}

// ControlTokenError is the error of a text that spells a control token and is to be plain text, where the tokenizer has no other way to
// write it.
type ControlTokenError struct{ Token string }

func (e *ControlTokenError) Error() string {
	return fmt.Sprintf("the text spells the control token %q, and this model's tokenizer has no other way to write it: leave it out of the text, or let messages hold control tokens (without PlainContent; serve --control-tokens)", e.Token)
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
