package main

import (
	"fmt"
	"slices"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
)

// readLabels reads labels, one a line. "finance: invoices, accounts" describes one; an indented line "e.g. Pay the invoice" is an example
// of the label above it.
func readLabels(path string) (labels []string, details map[string]mlx.LabelDetails, err error) {
	details = map[string]mlx.LabelDetails{}
	err = eachLine(path, func(number int, line string) error {
		trimmed := strings.TrimSpace(line)
		example, isExample := strings.CutPrefix(trimmed, "e.g. ")
		switch {
		case trimmed == "":
		case trimmed == "e.g." && line[0] != 'e':
			return fmt.Errorf("line %d: an example without a text", number)
		case isExample && line[0] != 'e':
			if len(labels) == 0 {
				return fmt.Errorf("line %d: an example without a label above it", number)
			}
			last := labels[len(labels)-1]
			d := details[last]
			d.Examples = append(d.Examples, example)
			details[last] = d
		default:
			label, description, _ := strings.Cut(trimmed+" ", ": ") // a description may still be missing
			label = strings.TrimSpace(label)
			if slices.Contains(labels, label) {
				return fmt.Errorf("line %d: label %q is given twice", number, label)
			}
			if label == "" {
				return fmt.Errorf("line %d: there is no label before the colon", number)
			}
			if description = strings.TrimSpace(description); description != "" {
				details[label] = mlx.LabelDetails{Description: description}
			}
			labels = append(labels, label)
		}
		return nil
	})
	if err == nil && len(labels) == 0 {
		err = fmt.Errorf("%s: it has no labels: write one a line", path)
	}
	return labels, details, err
}
