package turn

import (
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"
)

// null in a list is neither an empty text nor token 0.
func TestNullInAListIsRefused(t *testing.T) {
	for _, text := range []string{`[null]`, `["a", null]`} {
		var texts Strings
		require.ErrorIs(t, json.Unmarshal([]byte(text), &texts), errNull, text)
	}
	for _, text := range []string{`[null]`, `["a", null]`, `[1, null, 3]`, `[[1, 2], null]`, `[[1, null]]`} {
		var p Prompts
		require.ErrorIs(t, json.Unmarshal([]byte(text), &p), errNull, text)
	}
	var texts Strings
	require.NoError(t, json.Unmarshal([]byte(`["a", ""]`), &texts))
	require.Equal(t, Strings{"a", ""}, texts)
	var p Prompts
	require.NoError(t, json.Unmarshal([]byte(`[[1, 2], [0]]`), &p))
	require.Len(t, p, 2)
	require.Equal(t, []int32{0}, p[1].IDs)
}
