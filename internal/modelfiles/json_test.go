package modelfiles

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// As in Python a key in other letters is another key, the last of two equal ones counts, and null is no value.
func TestFilesAreReadAsPythonReadsThem(t *testing.T) {
	type settings struct {
		Rank int               `json:"rank"`
		Keys []string          `json:"keys"`
		Map  map[string]string `json:"prompts"`
	}
	for text, want := range map[string]settings{
		`{"rank": 8, "Rank": 3, "RANK": 4}`:                      {Rank: 8},
		`{"Rank": 3}`:                                            {},
		`{"ran` + "\u212a" + `": 3}`:                             {}, // the sign for kelvin, which encoding/json takes for a k
		`{"rank": 1, "rank": 2}`:                                 {Rank: 2},
		`{"rank": null, "keys": null}`:                           {},
		"\ufeff" + `{"other": NaN, "rank": 1, "x": -Infinity}`:   {Rank: 1},
		`{"prompts": {"STS": "a: ", "query": "NaN"}, "KEYS": 3}`: {Map: map[string]string{"STS": "a: ", "query": "NaN"}},
	} {
		var got settings
		require.NoError(t, Unmarshal([]byte(text), &got), text)
		require.Equal(t, want, got, text)
	}
	require.Error(t, Unmarshal([]byte(`{"rank": "8"}`), &settings{}))
	require.Error(t, Unmarshal([]byte(`{"rank": 8} x`), &settings{}))
}

func TestAddedTokensAreTakenAsTheyAreWritten(t *testing.T) {
	token, ok := specialToken([]byte(`{"Content": "<x>", "content": "<s>", "CONTENT": "<y>"}`))
	require.True(t, ok)
	require.Equal(t, "<s>", token)
	_, ok = specialToken([]byte(`{"Content": "<x>"}`))
	require.False(t, ok)
}
