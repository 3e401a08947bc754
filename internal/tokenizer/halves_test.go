package tokenizer

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHalvesOfSurrogatePairsAreCharactersOfTheirOwn(t *testing.T) {
	for _, text := range []string{
		`"plain"`, `"\ud83d\ude00"`, `"\uD83D\uDE00 \ud83d\ude00\ud83d\ude00"`, `"\ud83d"`, `"\ude00"`, `"\ude00\ud83d"`, `"\ud83d\ud83d\ude00"`,
		`"\\ud83d"`, `"\\\ud83d"`, `"\ud83dud83d"`, `"\ud83d\n\ude00"`, `"\ud83d\\ude00"`, `{"\udfff":["\ud800","\u0041\ud7ff\ue000"]}`, `"\ud800\""`,
	} {
		var want, got any
		require.NoError(t, json.Unmarshal([]byte(text), &want), text)
		data := []byte(text)
		whole := wholePairs(data)
		require.Equal(t, text, string(data), "it is the caller's")
		require.NoError(t, json.Unmarshal(whole, &got), text)
		require.Equal(t, want, got, text)
	}
	require.Equal(t, `["\ufffd","\ud83d\ude00","\ufffd\ufffd"]`, string(wholePairs([]byte(`["\ud800","\ud83d\ude00","\udfff\ud800"]`))))
}
