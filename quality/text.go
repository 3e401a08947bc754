package quality

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteText prints a report for people.
func (r *Report) WriteText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d texts\taccuracy %.1f %%\tmacro-F1 %.1f %%\tcalibration error %.3f", r.Texts, 100*r.Accuracy, 100*r.MacroF1, r.ECE)
	if r.TextsPerSec > 0 {
		fmt.Fprintf(w, "\t%.0f texts a second", r.TextsPerSec)
	}
	fmt.Fprintf(w, "\n\nlabel\ttexts\tprecision\trecall\tF1\n")
	for _, row := range r.Labels {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\n", row.Name, row.Texts, 100*row.Precision, 100*row.Recall, 100*row.F1)
	}
	if len(r.Languages) > 0 {
		fmt.Fprintf(w, "\nlanguage\ttexts\taccuracy\tmacro-F1\n")
		for _, row := range r.Languages {
			fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\n", row.Name, row.Texts, 100*row.Accuracy, 100*row.F1)
		}
	}
	if r.showsConfusion() {
		fmt.Fprintf(w, "\nright \\ given")
		for _, row := range r.Labels {
			fmt.Fprintf(w, "\t%.9s", row.Name)
		}
		for i, counts := range r.Confusion {
			fmt.Fprintf(w, "\n%s", r.Labels[i].Name)
			for _, n := range counts {
				fmt.Fprintf(w, "\t%d", n)
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\nprobability\ttexts\taccuracy\n")
	for _, b := range r.Calibration {
		if b.Texts > 0 {
			fmt.Fprintf(w, "%.2f\t%d\t%.2f\n", b.Confidence, b.Texts, b.Accuracy)
		}
	}
	fmt.Fprintf(w, "\nsurest share\taccuracy\n")
	for _, c := range r.Coverage {
		fmt.Fprintf(w, "%.0f %%\t%.1f\n", 100*c.Coverage, 100*c.Accuracy)
	}
	fmt.Fprintf(w, "\nnot abstained\taccuracy\n%.1f %%\t%.1f\n", 100*r.Kept.Coverage, 100*r.Kept.Accuracy)
	if len(r.Mistakes) > 0 {
		fmt.Fprintf(w, "\nsurest mistakes\n")
	}
	for _, p := range r.Mistakes {
		fmt.Fprintf(w, "%.3f\t%s\tright: %s\t%s\t%q\n", p.Probability, p.Label, p.Truth, p.Language, p.Text)
	}
	return w.Flush()
}
