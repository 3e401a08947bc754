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

// What /v1/embeddings and /api/embed answer does not depend on the engine.
func TestBothEnginesAnswerRequestsForVectorsAlike(t *testing.T) {
	s, err := New(Config{Models: bothEngines(t)})
	require.NoError(t, err)
	for _, c := range []struct {
		path, fields string
		status       int
	}{
		{"/v1/embeddings", `"input": "a boat"`, 200},
		{"/v1/embeddings", `"input": ["a boat", "a clock"], "encoding_format": "float", "dimensions": 8`, 200},
		{"/v1/embeddings", `"input": "a boat", "encoding_format": "base64"`, 200},
		{"/v1/embeddings", `"input": [[1, 2, 3]]`, 200},
		{"/v1/embeddings", `"input": [1, 2, 3]`, 200},
		{"/v1/embeddings", `"input": ["a", [1, 2]]`, 0},
		{"/v1/embeddings", `"input": [[1], []]`, 400},
		{"/v1/embeddings", `"input": [[[1]]]`, 400},
		{"/v1/embeddings", `"input": [[99999]]`, 400},
		{"/v1/embeddings", `"input": [[-1]]`, 400},
		{"/v1/embeddings", `"input": [1.5]`, 400},
		{"/v1/embeddings", `"input": ""`, 400},
		{"/v1/embeddings", `"input": ["a", ""]`, 400},
		{"/v1/embeddings", `"input": []`, 400},
		{"/v1/embeddings", `"input": "a", "dimensions": 100000`, 400},
		{"/v1/embeddings", `"input": "a", "dimensions": -1`, 400},
		{"/v1/embeddings", `"input": "a", "encoding_format": "int8"`, 400},
		{"/v1/embeddings", `"input": "a", "prompt_name": "poem"`, 400},
		{"/v1/embeddings", "\"input\": \"a\xff\"", 0},
		{"/api/embed", `"input": "a boat"`, 200},
		{"/api/embed", `"input": ["a boat", "a clock"], "dimensions": 8`, 200},
		{"/api/embed", `"input": []`, 200},
		{"/api/embed", `"input": "a", "dimensions": 100000`, 400},
	} {
		native := post(t, s, c.path, `{"model": "native", `+c.fields+`}`)
		python := post(t, s, c.path, `{"model": "python", `+c.fields+`}`)
		require.Equal(t, native.Code, python.Code, "%s: %s\n%s", c.fields, native.Body.String(), python.Body.String())
		if c.status != 0 {
			require.Equal(t, c.status, native.Code, "%s: %s", c.fields, native.Body.String())
		}
		if native.Code != 200 {
			require.Equal(t, native.Body.String(), python.Body.String(), c.fields)
		}
	}
}
