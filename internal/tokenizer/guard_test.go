package tokenizer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Which of the added tokens are control tokens: <plain> is added and not special.
func TestWhatControlTokensAre(t *testing.T) {
	tok, _, _ := fallback(t, spaces, byteFallback, fuse)
	for name, c := range map[string]struct {
		template string
		listed   []string
		want     string // of <bos><plain>x, marked
	}{
		"special":              {"", nil, controlStart + "<bos>" + controlEnd + "<plain>x"},
		"named":                {"{{ '<plain>' }}", nil, controlStart + "<bos>" + controlEnd + controlStart + "<plain>" + controlEnd + "x"},
		"listed":               {"", []string{"<plain>", "x"}, controlStart + "<bos>" + controlEnd + controlStart + "<plain>" + controlEnd + "x"},
		"named and not listed": {"{{ '<plain>' }}", []string{}, controlStart + "<bos>" + controlEnd + "<plain>x"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := NewGuard(tok, c.template, c.listed)
			require.NoError(t, err)
			require.Equal(t, c.want, g.Mark("<bos><plain>x"))
		})
	}
}
