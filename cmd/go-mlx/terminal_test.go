package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// typed are the messages that come of keys, in one piece and key by key.
func typed(t *testing.T, keys string) []string {
	t.Helper()
	read := func(in io.Reader) (messages []string) {
		var out bytes.Buffer
		s := newTerminalSource(in, &out)
		for {
			text, err := s.message()
			if err == io.EOF {
				return messages
			}
			require.NoError(t, err)
			messages = append(messages, s.expand(text))
		}
	}
	whole := read(strings.NewReader(keys))
	require.Equal(t, whole, read(iotest.OneByteReader(strings.NewReader(keys))), "key by key")
	return whole
}

func TestKeysInTheTerminal(t *testing.T) {
	paste := func(text string) string { return pasteStart + text + pasteEnd }
	long := strings.Repeat("many words ", 1000)
	for name, c := range map[string]struct {
		keys string
		want []string
	}{
		"lines":                       {"one\rtwo\r", []string{"one", "two"}},
		"Ctrl-C clears":               {"forget\x03two\r", []string{"two"}},
		"Ctrl-C in the middle":        {"forget\x1b[D\x1b[D\x03two\r", []string{"two"}},
		"Ctrl-C twice ends":           {"one\rx\x03\x03never\r", []string{"one"}},
		"Ctrl-C now and then":         {"a\x03b\x03c\r", []string{"c"}},
		"Ctrl-C among lines":          {"\"\"\"a\rb\x03c\r", []string{"", "c"}},
		"Ctrl-C after a backslash":    {"a\\\rb\x03c\r", []string{"", "c"}},
		"Ctrl-D ends":                 {"one\r\x04never\r", []string{"one"}},
		"a word pasted":               {"a " + paste("word") + "!\r", []string{"a word!"}},
		"a line pasted":               {paste("line\n") + "\r", []string{"line"}},
		"lines pasted":                {paste("one\rtwo\r\nthree\n\n") + "\r", []string{"one\ntwo\nthree"}},
		"lines pasted after a word":   {"look: " + paste("one\n\ttwo") + " ok?\r", []string{"look: one\n\ttwo ok?"}},
		"two pastes":                  {paste("a\nb") + " " + paste("c\nd") + "\r" + paste("e\nf") + "\r", []string{"a\nb c\nd", "e\nf"}},
		"a long paste":                {paste(long) + "\r", []string{long}},
		"Ctrl-C and marks in a paste": {paste("a\x03\x1b[2b\x1b[200~c\nd") + "\r", []string{"a\x03\x1b[2b\x1b[200~c\nd"}},
		"a paste of quotes":           {paste("\"\"\"doc\nx = 1") + "\r", []string{"\"\"\"doc\nx = 1"}},
		"a paste that is cleared":     {paste("a\nb") + "\x03c\r", []string{"c"}},
		"other characters":            {paste("é日\n🦊") + "\r", []string{"é日\n🦊"}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, typed(t, c.keys)) })
	}
}

// What is pasted is no command.
func TestAPasteIsNoCommand(t *testing.T) {
	var out bytes.Buffer
	s := newTerminalSource(strings.NewReader(pasteStart+"/clear\nnot"+pasteEnd+"\r"), &out)
	text, err := s.message()
	require.NoError(t, err)
	require.False(t, strings.HasPrefix(text, "/"), text)
	require.Equal(t, "/clear\nnot", s.expand(text))
	require.Contains(t, out.String(), fmt.Sprintf("pasted 1: 2 lines, %d characters", len("/clear\nnot")))
}
