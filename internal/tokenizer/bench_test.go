package tokenizer

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func BenchmarkEncode(b *testing.B) {
	tok := load(b)
	texts := testenv.Texts(b)
	for name, text := range map[string]string{"sentence": texts[0], "page": strings.Join(texts[:40], " ")} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				_, err := tok.Encode(text, true)
				require.NoError(b, err)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	tok := load(b)
	ids, err := tok.Encode(strings.Join(testenv.Texts(b)[:40], " "), true)
	require.NoError(b, err)
	for b.Loop() {
		_, err := tok.Decode(ids, true)
		require.NoError(b, err)
	}
}

func BenchmarkRender(b *testing.B) {
	template, err := NewTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% if loop.last %}!{% endif %}{% endfor %}", nil)
	require.NoError(b, err)
	b.Cleanup(template.Close)
	chat := make([]map[string]string, 100)
	for i := range chat {
		chat[i] = map[string]string{"role": "user", "content": "x"}
	}
	for b.Loop() {
		_, err := template.Render(b.Context(), map[string]any{"messages": chat}, true, nil)
		require.NoError(b, err)
	}
}
