package turn

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Errors are told by their cause, in one line, and by the names of the API.
func TestErrorsByTheirCause(t *testing.T) {
	names := Names{"WithStop": "stop_sequences", "Prompt": "input"}
	for _, c := range []struct {
		err    error
		status int
		param  string
		says   string
	}{
		{&mlx.OptionError{Option: "WithStop", Reason: "a stop string is empty"}, 400, "stop_sequences", "stop_sequences: a stop string is empty"},
		{&mlx.OptionError{Option: "TopK", Reason: "no"}, 400, "top_k", "top_k: no"},
		{fmt.Errorf("text 1: %w", mlx.ErrInvalidUTF8), 400, "input", "text 1: text is not valid UTF-8"},
		{&mlx.ContextLengthError{Tokens: 5000, Limit: 4096}, 400, "input", "prompt has 5000 tokens; the model takes fewer than 4096: shorten the prompt"},
		{fmt.Errorf("model x: %w", &mlx.RemoteError{Code: "internal", Message: "ValueError: no", Traceback: "Traceback:\n  File x"}), 500, "", "python worker: ValueError: no"},
		{fmt.Errorf("model x: %w", errors.New("python worker stopped: exit status 1\nlast lines of its stderr:\nTraceback")), 500, "", "model x: python worker stopped: exit status 1"},
		{fmt.Errorf("text 1: %w", &mlx.ControlTokenError{Token: "<eos>"}), 400, "input", "text 1: " + (&mlx.ControlTokenError{Token: "<eos>"}).Error()},
		{&mlx.OptionError{Option: "WithDraftModel", Reason: "no memory", Err: mlx.ErrBudget}, 503, "", (&mlx.OptionError{Option: "WithDraftModel", Reason: "no memory"}).Error()},
		{&mlx.OptionError{Option: "WithAdapter", Reason: "it is gone"}, 500, "", (&mlx.OptionError{Option: "WithAdapter", Reason: "it is gone"}).Error()},
		{mlx.ErrBusy, 429, "", mlx.ErrBusy.Error()},
		{mlx.ErrBudget, 503, "", mlx.ErrBudget.Error()},
		{ErrDraining, 503, "", ErrDraining.Error()},
		{context.DeadlineExceeded, 504, "", context.DeadlineExceeded.Error()},
		{context.Canceled, 499, "", context.Canceled.Error()},
		{&PanicError{Value: "secret", Stack: []byte("goroutine 1")}, 500, "", "a fault in the server; its log has more"},
	} {
		e := Explain(c.err, names)
		require.Equal(t, []any{c.status, c.param, c.says}, []any{e.Kind.Status(), e.Param, e.Message})
		require.NotEmpty(t, e.Kind.OpenAI())
		require.NotEmpty(t, e.Kind.Anthropic())
	}
}
