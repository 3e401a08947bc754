package goai_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	goai "forge.lthn.ai/core/go-mlx/examples/go-ai"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// backend is the interface that go-ai asks for.
type backend interface {
	Generate(ctx context.Context, prompt string, o goai.Options) (goai.Result, error)
	Chat(ctx context.Context, messages []mlx.Message, o goai.Options) (goai.Result, error)
	GenerateStream(ctx context.Context, prompt string, o goai.Options, callback func(string) error) error
	ChatStream(ctx context.Context, messages []mlx.Message, o goai.Options, callback func(string) error) error
	Name() string
	Available() bool
}

var _ backend = (*goai.Backend)(nil)

func TestBackend(t *testing.T) {
	for _, engine := range []mlx.Engine{mlx.EngineNative, mlx.EnginePython} {
		t.Run(string(engine), func(t *testing.T) {
			options := []mlx.LoadOption{mlx.WithEngine(engine)}
			if engine == mlx.EnginePython {
				options = append(options, mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
			}
			b, err := goai.New(t.Context(), "assistant", filepath.Join(testenv.Root(), "tests", "models", "assistant"), options...)
			require.NoError(t, err)
			defer b.Close()
			require.Equal(t, "mlx-"+string(engine), b.Name())
			require.True(t, b.Available())

			ask := []mlx.Message{{Role: "user", Content: "What is the capital of Portugal?"}}
			whole, err := b.Chat(t.Context(), ask, goai.Options{MaxTokens: 60, Model: "assistant"})
			require.NoError(t, err)
			require.Contains(t, whole.Text, "The capital of Portugal is Lisbon.")
			require.Equal(t, "stop", whole.Metrics.FinishReason)
			require.Positive(t, whole.Metrics.PromptTokens)
			text := ""
			require.NoError(t, b.ChatStream(t.Context(), ask, goai.Options{MaxTokens: 60}, func(piece string) error {
				text += piece
				return nil
			}))
			require.Equal(t, whole.Text, text)

			// Of the likeliest token alone: a drawn one might end the text.
			cut, err := b.Generate(t.Context(), "one two three", goai.Options{MaxTokens: 3, TopK: 1, TopP: 0.9, Temperature: 1, RepeatPenalty: 1.1})
			require.NoError(t, err)
			require.Equal(t, 3, cut.Metrics.GeneratedTokens)
			require.Equal(t, "length", cut.Metrics.FinishReason)

			enough := errors.New("enough")
			require.ErrorIs(t, b.GenerateStream(t.Context(), "one two", goai.Options{}, func(string) error { return enough }), enough)
			_, err = b.Chat(t.Context(), ask, goai.Options{Model: "other"})
			require.ErrorContains(t, err, `not "other"`)
			var option *mlx.OptionError
			_, err = b.Chat(t.Context(), ask, goai.Options{TopP: 3})
			require.ErrorAs(t, err, &option)
			require.NoError(t, b.Close())
			require.False(t, b.Available())
		})
	}
}
