package server

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// text_offset is a place in the answer's text, in characters, also after characters of several tokens and in an echoed prompt.
func TestTextOffsetsArePlacesInTheText(t *testing.T) {
	s := serve(t, Config{})
	for _, prompt := range []string{"Grüße 🦊 日本 𓀀𓁐 costs", " x", "a\u0301b 👨‍👩‍👧 end", "🦊"} {
		for _, echo := range []string{"true", "false"} {
			a := s.do("POST", "/v1/completions", `{"model": "chat", "echo": `+echo+`, "logprobs": 1, "max_tokens": 6, "temperature": 0, "prompt": "`+prompt+`"}`)
			require.Equal(t, 200, a.StatusCode, a.body)
			text := []rune(field[string](t, a.body, "choices.0.text"))
			tokens, offsets := field[[]any](t, a.body, "choices.0.logprobs.tokens"), field[[]any](t, a.body, "choices.0.logprobs.text_offset")
			require.Len(t, offsets, len(tokens))
			last := 0
			for i, token := range tokens {
				offset := int(offsets[i].(float64))
				require.GreaterOrEqual(t, offset, last)
				require.LessOrEqual(t, offset, len(text))
				last = offset
				if piece := token.(string); !strings.Contains(piece, "\ufffd") {
					require.True(t, strings.HasPrefix(string(text[offset:]), piece), "%q at %d of %q", piece, offset, string(text))
				}
			}
		}
	}
}
