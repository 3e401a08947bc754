package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
)

// classifyBatch is how many lines are classified together: results appear while input still comes.
const classifyBatch = 256

// maxLine is the longest input line; a longer one is an error and not a silent cut.
const maxLine = 1 << 20

type classifyRun struct {
	modelFlags
	labelsFile string
	prompt     string
	json       bool
	scores     bool
	labelled   bool
	calibrate  string
	abstain    float64
	prior      string
	classifier string
}

func classifyCommand() *cobra.Command {
	run := &classifyRun{}
	cmd := &cobra.Command{
		Use:   "classify MODEL --labels FILE < sentences.txt",
		Short: "Classify each line of standard input",
		Long: `Classify each line of standard input. The labels file holds one label a line, or "LABEL: what it stands for"; a line
that begins with a space and "e.g. " is an example of the label above it. For each line of input the label, its probability and its margin over the second best label are printed, and the text.`,
		RunE: withModel(&run.path, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	run.add(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&run.labelsFile, "labels", "l", "", "file with one label a line (required without --classifier)")
	flags.StringVar(&run.prompt, "prompt", "", "label prompt with {labels} and {text}")
	flags.BoolVar(&run.json, "json", false, "print one JSON object a line")
	flags.BoolVar(&run.scores, "scores", false, "with --json, print every label's score")
	flags.BoolVar(&run.labelled, "labelled", false, "input lines are LABEL<tab>TEXT; print the accuracy at the end")
	flags.StringVar(&run.calibrate, "calibrate", "", "file of LABEL<tab>TEXT lines to fit the probabilities to first")
	flags.StringVar(&run.prior, "prior", "", "what is taken from the labels' scores: content-free (default), batch or none")
	flags.StringVar(&run.classifier, "classifier", "", "file of a trained classifier, instead of labels")
	flags.Float64Var(&run.abstain, "abstain", 0, "print \"-\" for a text whose best label is less probable")
	return cmd
}

func (r *classifyRun) run(ctx context.Context, in io.Reader, out, stderr io.Writer) error {
	labels, options, err := r.labels()
	if err != nil {
		return err
	}
	if r.scores && !r.json {
		return usageError{errors.New("--scores goes with --json")}
	}
	m, err := r.load(ctx, stderr)
	if err != nil {
		return err
	}
	defer m.Close()
	if r.prior != "" {
		options = append(options, mlx.WithLabels(mlx.LabelPrior(mlx.Prior(r.prior))))
	}
	if r.prompt != "" {
		options = append(options, mlx.WithLabels(mlx.LabelPrompt(r.prompt)))
	}
	if r.abstain != 0 {
		options = append(options, mlx.WithAbstain(r.abstain))
	}
	if r.calibrate != "" {
		calibration, err := r.fit(ctx, m, labels, options)
		if err != nil {
			return fmt.Errorf("--calibrate: %w", err)
		}
		r.say(stderr, "calibrated on %d texts: temperature %.3f, expected calibration error %.3f before, %.3f after",
			calibration.Texts, calibration.Temperature, calibration.ECEBefore, calibration.ECEAfter)
		options = append(options, mlx.WithCalibration(calibration))
	}
	p := &classifyPrinter{run: r, out: bufio.NewWriter(out)}
	for _, label := range labels {
		p.width = max(p.width, utf8.RuneCountInString(label))
	}
	start := time.Now()
	if err := eachBatch(in, r.labelled, func(batch []line) error {
		return answer(ctx, batch, func(texts []string) ([]mlx.Classification, error) {
			return m.Classify(ctx, texts, labels, options...)
		}, p.print)
	}); err != nil {
		return err
	}
	took := time.Since(start)
	r.say(stderr, "%s in %.2f s (%.0f a second)", counted(p.count, "text"), took.Seconds(), float64(p.count)/took.Seconds())
	if r.labelled && p.count > 0 {
		fmt.Fprintf(stderr, "accuracy %.1f%% (%d of %d)\n", 100*float64(p.right)/float64(p.count), p.right, p.count)
	}
	return nil
}

// labels are those of the labels file or of the classifier.
func (r *classifyRun) labels() ([]string, []mlx.ClassifyOption, error) {
	if (r.classifier == "") == (r.labelsFile == "") {
		return nil, nil, usageError{errors.New("give --labels or --classifier")}
	}
	if r.classifier != "" {
		c, err := mlx.LoadClassifier(r.classifier)
		if err != nil {
			return nil, nil, err
		}
		return c.Info().Labels, []mlx.ClassifyOption{mlx.WithClassifier(c)}, nil
	}
	labels, details, err := readLabels(r.labelsFile)
	if err != nil {
		return nil, nil, fmt.Errorf("--labels: %w", err)
	}
	return labels, []mlx.ClassifyOption{mlx.WithLabels(mlx.LabelDescriptions(details))}, nil
}

// fit reads the labelled file and fits the temperature.
func (r *classifyRun) fit(ctx context.Context, m mlx.TextModel, labels []string, options []mlx.ClassifyOption) (mlx.Calibration, error) {
	file, err := os.Open(r.calibrate)
	if err != nil {
		return mlx.Calibration{}, err
	}
	defer file.Close()
	var labelled []mlx.LabelledText
	if err := eachBatch(file, true, func(batch []line) error {
		for _, l := range batch {
			labelled = append(labelled, mlx.LabelledText{Text: l.text, Label: l.label})
		}
		return nil
	}); err != nil {
		return mlx.Calibration{}, fmt.Errorf("%s: %w", r.calibrate, err)
	}
	return mlx.Calibrate(ctx, m, labelled, labels, options...)
}

type classifyPrinter struct {
	run          *classifyRun
	out          *bufio.Writer
	width        int
	count, right int
}

func (p *classifyPrinter) print(batch []line, results []mlx.Classification) error {
	for i, c := range results {
		p.count++
		if c.Label == batch[i].label {
			p.right++
		}
		if p.run.json {
			if err := p.printJSON(batch[i], c); err != nil {
				return err
			}
			continue
		}
		label := c.Label
		if c.Abstained {
			label = "-"
		}
		fmt.Fprintf(p.out, "%-*s  %.3f  %.3f  %s\n", p.width, label, c.Probability, c.Margin, batch[i].text)
	}
	return p.out.Flush()
}

func (p *classifyPrinter) printJSON(l line, c mlx.Classification) error {
	if !p.run.scores {
		c.Scores = nil
	}
	data, err := json.Marshal(struct {
		Line     int    `json:"line"`
		Text     string `json:"text"`
		Expected string `json:"expected,omitempty"`
		mlx.Classification
	}{l.number, l.text, l.label, c})
	if err != nil {
		return err
	}
	_, err = p.out.Write(append(data, '\n'))
	return err
}
