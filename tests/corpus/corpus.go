// Package corpus holds the sentences that the project's own model was never trained on, and their labels.
package corpus

import (
	_ "embed" // the files
	"strings"
)

//go:embed heldout.tsv
var heldout string

//go:embed labels.txt
var labels string

// Sentence is a held-out sentence with its right label.
type Sentence struct{ Language, Label, Text string }

// Heldout are all held-out sentences.
func Heldout() (out []Sentence) {
	for line := range strings.Lines(heldout) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3); len(f) == 3 {
			out = append(out, Sentence{f[0], f[1], f[2]})
		}
	}
	return out
}

// Labels are the labels of the sentences.
func Labels() []string { return strings.Fields(labels) }
