package selftest

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"class": func(s State) string { return strings.ReplaceAll(string(s), " ", "-") },
}).Parse(page))

// WriteHTML writes the report as one page that needs nothing else.
func (r *Report) WriteHTML(out io.Writer) error { return pageTemplate.Execute(out, r) }

// Verdict is the outcome in a sentence.
func (r *Report) Verdict() string {
	text := fmt.Sprintf("%d passed, %d failed, %d not run, in %.0f s", r.Count(Passed), r.Count(Failed), r.Count(NotRun), r.Seconds)
	switch {
	case r.Interrupted:
		text += "; interrupted"
	case r.Count(Passed)+r.Count(Failed) == 0:
		text += "; nothing could be tested"
	}
	return text
}

// WriteText prints the report for people. It is plain enough to be pasted into an issue.
func (r *Report) WriteText(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "go-mlx selftest, version %s, %s\nmodel: %s\n\n", r.Version, r.Began.Format("2006-01-02 15:04:05 MST"), r.Model)
	width := 0
	for _, f := range r.System {
		width = max(width, len(f.Name))
	}
	for _, f := range r.System {
		fmt.Fprintf(&b, "%-*s  %s\n", width, f.Name, Indent(f.Detail, width+2))
	}
	group := ""
	for _, c := range r.Checks {
		if c.Group != group {
			group = c.Group
			fmt.Fprintf(&b, "\n%s\n", group)
		}
		fmt.Fprintf(&b, "  %-7s  %s (%.1f s)\n", c.State, c.Name, c.Seconds)
		if c.Detail != "" {
			fmt.Fprintf(&b, "           %s\n", Indent(c.Detail, 11))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.Verdict())
	_, err := io.WriteString(out, b.String())
	return err
}

// reportWidth is how wide reports are, in columns: that of a terminal of the usual size.
const reportWidth = 80

// Indent makes a text the last column of a report, which begins at column n: it breaks lines between words and puts n spaces in front
// of all but the first. Lines that begin with a space, such as those of Python's tracebacks, stay as they are.
func Indent(text string, n int) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		words := []string{line}
		if !strings.HasPrefix(line, " ") {
			words = strings.Fields(line)
		}
		if i > 0 {
			b.WriteString("\n" + strings.Repeat(" ", n))
		}
		column := n
		for k, word := range words {
			length := len([]rune(word))
			switch {
			case k == 0:
			case column+1+length > reportWidth:
				b.WriteString("\n" + strings.Repeat(" ", n))
				column = n
			default:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += length
		}
	}
	return b.String()
}
