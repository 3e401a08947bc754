package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Token ids are embedded as they are, and not the text that they spell: it may have other tokens, or be empty.
func TestTokenIDsAreEmbeddedAsTheyAre(t *testing.T) {
	s := serve(t, Config{})
	ids := func(text string) string {
		a := s.do("POST", "/v1/tokenize", fmt.Sprintf(`{"model": "domains", "text": %q, "add_special_tokens": true}`, text))
		require.Equal(t, 200, a.StatusCode, a.body)
		return strings.ReplaceAll(fmt.Sprint(field[[]any](t, a.body, "tokens")), " ", ",")
	}
	vector := func(input string) []any {
		a := s.do("POST", "/v1/embeddings", fmt.Sprintf(`{"model": "domains", "input": %s}`, input))
		require.Equal(t, 200, a.StatusCode, "%s: %s", input, a.body)
		return field[[]any](t, a.body, "data.0.embedding")
	}
	const text = "The goalkeeper saved two penalties."
	whole := ids(text)
	require.Equal(t, vector(fmt.Sprintf("%q", text)), vector("["+whole+"]"), "ids of a text are that text")
	require.Equal(t, vector("["+whole+"]"), vector(whole), "one list of ids is one text")

	spelt := ids("s") + ids("a") + ids("v") // the letters of a text that has a token of its own
	letters := strings.NewReplacer("][", ",").Replace(spelt)
	require.NotEqual(t, vector("["+ids("sav")+"]"), vector("["+letters+"]"))

	special := vector("[[1]]") // marks have no text
	require.NotEqual(t, special, vector("[[2]]"))
	a := s.do("POST", "/v1/embeddings", `{"model": "domains", "input": [[1], [5, 6]]}`)
	require.Equal(t, 200, a.StatusCode, a.body)
	require.Equal(t, special, field[[]any](t, a.body, "data.0.embedding"))
	require.InDelta(t, 3, field[float64](t, a.body, "usage.total_tokens"), 0)
}
