package engine

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// LabelDetails describe a label.
type LabelDetails struct {
	Description string   // such as "invoices, accounts, taxes" for finance
	Examples    []string // texts that the label is right for
}

// checkDetails refuses details of unknown labels, text that is not UTF-8, and empty examples.
func (o ClassifyOptions) checkDetails() error {
	for label, details := range o.Details {
		if !slices.Contains(o.Labels, label) {
			return &OptionError{Option: "LabelDescriptions", Reason: fmt.Sprintf("%q is described but none of the labels", label)}
		}
		for _, text := range append([]string{details.Description}, details.Examples...) {
			if !utf8.ValidString(text) {
				return &OptionError{Option: "LabelDescriptions", Reason: fmt.Sprintf("details of label %q: %v", label, ErrInvalidUTF8), Err: ErrInvalidUTF8}
			}
		}
		if slices.ContainsFunc(details.Examples, func(e string) bool { return strings.TrimSpace(e) == "" }) {
			return &OptionError{Option: "LabelDescriptions", Reason: fmt.Sprintf("an example of label %q is empty", label)}
		}
	}
	return nil
}

// UserText fills the prompt for one text. A text that holds "{labels}" is not filled again. Examples come before it, in the same form,
// so that they belong to what all texts share.
func (o ClassifyOptions) UserText(text string) string {
	before, after, _ := strings.Cut(o.Prompt, "{text}")
	labels := o.labelList()
	before = strings.ReplaceAll(before, "{labels}", labels)
	after = strings.ReplaceAll(strings.TrimSuffix(after, labelMark), "{labels}", labels)
	if o.Completes() { // the space before the label is the label's own
		after = strings.TrimRight(after, " ")
	}
	return o.examples(before, after) + before + text + after
}

// labelList is the labels with their descriptions, as {labels} shows them.
func (o ClassifyOptions) labelList() string {
	described := make([]string, len(o.Labels))
	for i, label := range o.Labels {
		if described[i] = label; o.Details[label].Description != "" {
			described[i] += " (" + o.Details[label].Description + ")"
		}
	}
	return strings.Join(described, ", ")
}

// examples is one line for each example, the labels taking turns: models repeat what they saw last. Where no list of the labels shows
// their descriptions, these come first.
func (o ClassifyOptions) examples(before, after string) string {
	form := func(text, label string) string { return "Text: " + text + "\nLabel: " + label + "\n\n" }
	if o.Completes() {
		form = func(text, label string) string { return before + text + after + " " + label + "\n" }
	}
	var b strings.Builder
	if o.Completes() && !strings.Contains(o.Prompt, "{labels}") {
		for _, label := range o.Labels {
			if d := o.Details[label].Description; d != "" {
				b.WriteString(label + ": " + d + "\n")
			}
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
	}
	for round := 0; ; round++ {
		wrote := false
		for _, label := range o.Labels {
			if e := o.Details[label].Examples; round < len(e) {
				b.WriteString(form(e[round], label))
				wrote = true
			}
		}
		if !wrote {
			return b.String()
		}
	}
}
