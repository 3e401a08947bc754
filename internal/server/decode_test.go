package server

import (
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"
)

// null in a list is neither an empty text nor token 0.
func TestNullInAListIsRefused(t *testing.T) {
	for _, text := range []string{`[null]`, `["a", null]`} {
		var texts oneOrMany
		require.ErrorIs(t, json.Unmarshal([]byte(text), &texts), errNull, text)
	}
	for _, text := range []string{`[null]`, `["a", null]`, `[1, null, 3]`, `[[1, 2], null]`, `[[1, null]]`} {
		var p prompts
		require.ErrorIs(t, json.Unmarshal([]byte(text), &p), errNull, text)
	}
	var texts oneOrMany
	require.NoError(t, json.Unmarshal([]byte(`["a", ""]`), &texts))
	require.Equal(t, oneOrMany{"a", ""}, texts)
	require.NoError(t, json.Unmarshal([]byte(`null`), &texts))
	var p prompts
	require.NoError(t, json.Unmarshal([]byte(`[[1, 2], [0]]`), &p))
	require.Len(t, p, 2)
	require.Equal(t, []int32{0}, p[1].ids)
}
