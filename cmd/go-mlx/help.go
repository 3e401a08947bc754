package main

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// helpWidth is how wide texts of help are, in columns: that of a terminal that nobody has enlarged.
const helpWidth = 80

// wrapped breaks the paragraphs of a text anew. Lines that begin with a space stay as they are.
func wrapped(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if !strings.HasPrefix(p, " ") && !strings.Contains(p, "\n ") {
			paragraphs[i] = ansi.Wordwrap(strings.ReplaceAll(p, "\n", " "), helpWidth, "")
		}
	}
	return strings.Join(paragraphs, "\n\n")
}
