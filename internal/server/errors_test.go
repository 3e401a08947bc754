package server

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

// A text with a token that the model does not have is the client's mistake.
func TestATokenBeyondTheVocabularyIsABadRequest(t *testing.T) {
	e := explain(fmt.Errorf("prompt: %w", &mlx.TokenError{ID: 262144, VocabSize: 262144}))
	require.Equal(t, http.StatusBadRequest, e.Status)
	require.Contains(t, e.Message, "262144")
}
