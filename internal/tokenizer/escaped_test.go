package tokenizer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Templates print what they were given as JSON or as Python writes it, and the marks with it, escaped. The same letters from a user are letters.
func TestMarksThatATemplateEscapedAreSeen(t *testing.T) {
	tok := load(t)
	g, err := NewGuard(tok, "", nil)
	require.NoError(t, err)
	want, err := g.Encode(g.Mark("a <bos>b"))
	require.NoError(t, err)
	bos, ok := tok.TokenID("<bos>")
	require.True(t, ok)
	require.NotContains(t, want, bos)
	for name, escaped := range map[string]string{
		"JSON":   `a \udb80\udc00<bos>\udb80\udc01b`,
		"Python": `a \U000f0000<bos>\U000f0001b`,
	} {
		got, err := g.Encode(escaped)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	for _, letters := range []string{`\U000f0000<bos>\U000f0001`, `\udb80\udc00x\udb80\udc01`, `\U000f0000`, `\U000f0000<bos>`, `<bos>\U000f0001`} {
		got, err := g.Encode(g.Mark(letters))
		require.NoError(t, err)
		require.NotContains(t, got, bos)
		text, err := tok.Decode(got, true)
		require.NoError(t, err)
		require.Equal(t, letters, text)
	}
}
