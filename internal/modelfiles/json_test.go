package modelfiles

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
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
	require.EqualError(t, Unmarshal([]byte(`{"rank": "8"}`), &settings{}), "rank is a string and should be a whole number")
	require.EqualError(t, Unmarshal([]byte(`[1]`), &map[string]int{}), "it is an array and should be an object")
	require.Error(t, Unmarshal([]byte(`{"rank": 8} x`), &settings{}))
}

func TestAddedTokensAreTakenAsTheyAreWritten(t *testing.T) {
	token, ok := specialToken([]byte(`{"Content": "<x>", "content": "<s>", "CONTENT": "<y>"}`))
	require.True(t, ok)
	require.Equal(t, "<s>", token)
	_, ok = specialToken([]byte(`{"Content": "<x>"}`))
	require.False(t, ok)
}

// 2048.0 is a whole number to Python, and a number may have any length.
func TestNumbersOfConfigs(t *testing.T) {
	for text, want := range map[string]string{
		`{"a": 2048.0, "b": [1.0, 2.5, 1e3], "c": {"d": -6.00}, "e": "2.0", "f": 1e-6, "g": 1.5E+1}`: `{"a":2048,"b":[1,2.5,1000],"c":{"d":-6},"e":"2.0","f":1e-6,"g":15}`,
		`{"a": 1e999, "b": ` + strings.Repeat("9", 400) + `, "c": -0.0, "d": 1e300}`:                 `{"a":1e999,"b":` + strings.Repeat("9", 400) + `,"c":0,"d":1e300}`,
	} {
		got, err := CleanConfig([]byte(text))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	_, err := CleanConfig([]byte(`{"a": 1.}`))
	require.Error(t, err)
}

// Decoders put other characters in the place of what is not UTF-8; Python refuses it.
func TestFilesThatAreNotUTF8AreRefused(t *testing.T) {
	for text, want := range map[string]string{"\xff\xfe{\x00}\x00": "UTF-16", "\xfe\xff\x00{\x00}": "UTF-16", "{\"a\": \"caf\xe9\"}": "UTF-8"} {
		_, err := CleanConfig([]byte(text))
		require.ErrorIs(t, err, engine.ErrInvalidUTF8)
		require.ErrorContains(t, err, want)
		var into map[string]any
		err = Unmarshal([]byte(text), &into)
		require.ErrorIs(t, err, engine.ErrInvalidUTF8)
		require.ErrorContains(t, err, want)
	}
}
