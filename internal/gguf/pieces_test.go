package gguf

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPiecesAreFoundByTheirBytes(t *testing.T) {
	texts := []string{"a", "a\x00", "\x00", "\x00\x00", "▁", "▁the", "12345678", "1234567", "123456789", strings.Repeat("x", 40)}
	p := newPieces(len(texts))
	for i, text := range texts {
		p.add(text, i)
	}
	for i, text := range texts {
		id, ok := p.get(text)
		require.True(t, ok, "%q", text)
		require.Equal(t, i, id, "%q", text)
	}
	for _, text := range []string{"", "b", "a\x00\x00", "\x00\x00\x00", "▁th", "1234567890", "12345679"} {
		_, ok := p.get(text)
		require.False(t, ok, "%q", text)
	}
}
