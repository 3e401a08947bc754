package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// helpWidth is how wide texts of help are, in columns: that of a terminal of the usual size.
const helpWidth = 80

// wrapped breaks the paragraphs of a text anew, between words. Paragraphs with lines that begin with a space stay as they are.
func wrapped(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if strings.HasPrefix(p, " ") || strings.Contains(p, "\n ") {
			continue
		}
		var b strings.Builder
		column := 0
		for _, word := range strings.Fields(p) {
			switch n := len([]rune(word)); {
			case column == 0:
				column = n
			case column+1+n > helpWidth:
				b.WriteByte('\n')
				column = n
			default:
				b.WriteByte(' ')
				column += 1 + n
			}
			b.WriteString(word)
		}
		paragraphs[i] = b.String()
	}
	return strings.Join(paragraphs, "\n\n")
}

// wrapFlags wraps the descriptions of flags at the terminal's width, in the help of all commands.
func wrapFlags(root *cobra.Command) {
	cobra.AddTemplateFunc("wrapped", func(flags *pflag.FlagSet) string {
		width, _, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil || width < 60 {
			width = 0 // as they are
		}
		return flags.FlagUsagesWrapped(width)
	})
	root.SetUsageTemplate(strings.NewReplacer(
		".LocalFlags.FlagUsages", "wrapped .LocalFlags", ".InheritedFlags.FlagUsages", "wrapped .InheritedFlags",
	).Replace(root.UsageTemplate()))
}
