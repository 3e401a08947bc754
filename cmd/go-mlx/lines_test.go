package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

func TestAByteOrderMarkIsNoPartOfALabel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels.txt")
	require.NoError(t, os.WriteFile(file, []byte("\ufeffsport\r\n\r\nnight life\n"), 0o600))
	labels, err := readLines(file)
	require.NoError(t, err)
	require.Equal(t, []string{"sport", "night life"}, labels)
	var got []line
	require.NoError(t, eachBatch(strings.NewReader("\ufeffsport\tgoal\nfood\tsoup\n"), true, func(batch []line) error {
		got = append(got, batch...)
		return nil
	}))
	require.Equal(t, []line{{1, "sport", "goal"}, {2, "food", "soup"}}, got)
}

// PowerShell writes UTF-16. Whatever reads a text says so, and names the line.
func TestUTF16IsNamed(t *testing.T) {
	for _, text := range []string{"\xff\xfes\x00p\x00", "\xfe\xff\x00s\x00p", "sport\nf\x00o\x00\n"} {
		file := filepath.Join(t.TempDir(), "file.txt")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := readLines(file)
		_, labelled := readLabelled(file)
		batch := eachBatch(strings.NewReader(text), false, func([]line) error { return nil })
		lines := newLineSource(strings.NewReader(text), io.Discard)
		var chat error
		for chat == nil {
			_, chat = lines.line("")
		}
		for _, err := range []error{err, labelled, batch, chat} {
			if text[0] == 's' && err == labelled { //nolint:errorlint // the very error
				continue // of its first line, which has no tab
			}
			require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
			require.ErrorContains(t, err, "save it as UTF-8")
			require.ErrorContains(t, err, "line ")
		}
	}
}

func TestAByteOrderMarkIsNoPartOfAMessage(t *testing.T) {
	lines := newLineSource(strings.NewReader("\ufeff/help\r\n\ufeffx\n"), io.Discard)
	first, err := lines.line("")
	require.NoError(t, err)
	require.Equal(t, "/help", first)
	second, err := lines.line("")
	require.NoError(t, err)
	require.Equal(t, "\ufeffx", second, "only the file's first character is a mark")
}
