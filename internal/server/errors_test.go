package server

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// A text with a token that the model does not have is the client's mistake.
func TestATokenBeyondTheVocabularyIsABadRequest(t *testing.T) {
	e := explain(fmt.Errorf("prompt: %w", &mlx.TokenError{ID: 262144, VocabSize: 262144}), nil)
	require.Equal(t, turn.Invalid, e.Kind)
	require.Contains(t, e.Message, "262144")
}
