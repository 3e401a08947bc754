package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/quality"
)

func classifierCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "classifier",
		Short: "Train, measure and compare trained classifiers",
		Long: `Train, measure and compare classifiers on a model's hidden states. Data files have lines LABEL<tab>TEXT,
which may go on with <tab>LANGUAGE, for tables, and <tab>GROUP, what the text comes from. "go-mlx classify --classifier FILE" uses a classifier.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("say train, eval or compare; see go-mlx classifier --help")}
		},
	}
	cmd.AddCommand(classifierTrainCommand(), classifierEvalCommand(), classifierCompareCommand())
	return cmd
}

// labelledLine is a line of a data file.
type labelledLine struct{ label, text, language, group string }

// readLabelled reads a data file.
func readLabelled(path string) (out []labelledLine, err error) {
	err = eachLine(path, func(number int, line string) error {
		if strings.TrimSpace(line) == "" {
			return nil
		}
		fields := strings.Split(line, "\t")
		if len(fields) < 2 || len(fields) > 4 {
			return fmt.Errorf("line %d has %d fields; want LABEL<tab>TEXT[<tab>LANGUAGE[<tab>GROUP]]", number, len(fields))
		}
		fields = append(fields, "", "")
		label := strings.TrimSpace(fields[0])
		switch {
		case label == "":
			return fmt.Errorf("line %d has no label before the tab", number)
		case strings.TrimSpace(fields[1]) == "":
			return fmt.Errorf("line %d has no text after the tab: leave it out", number)
		}
		out = append(out, labelledLine{label, fields[1], fields[2], fields[3]})
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s: it has no texts: write LABEL<tab>TEXT, one a line", path)
	}
	return out, err
}

type classifierTrain struct {
	modelFlags
	data, out, prompt string
	layers            []int
	mean              bool
	share             float64
}

func classifierTrainCommand() *cobra.Command {
	run := &classifierTrain{}
	cmd := &cobra.Command{
		Use:   "train MODEL --data FILE --out FILE",
		Short: "Train a classifier",
		Long: `Train a linear classifier on a model's hidden states. A tenth of the texts is kept back: the shrinkage, the temperature and
the thresholds for unknown domains are chosen on it, and the printed table is measured on it. Where texts have groups, each quarter of
every label's groups is kept back once instead, and judged by a fit to the other quarters; the classifier is then fitted to all texts.
The date of the data is that of the file.`,
		RunE: withModel(&run.path, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	run.add(cmd)
	cmd.Flags().StringVar(&run.data, "data", "", "file of LABEL<tab>TEXT[<tab>LANGUAGE[<tab>GROUP]] lines (required)")
	cmd.Flags().StringVarP(&run.out, "out", "o", "", "file to write (required)")
	cmd.Flags().IntSliceVar(&run.layers, "layer", nil, "layer to read, or several of which the best is taken (default: at five sixths of the depth, with --mean at four ninths)")
	cmd.Flags().StringVar(&run.prompt, "prompt", "", fmt.Sprintf("what texts are put into; the state after it is read (default %q)", mlx.DefaultStatesPrompt))
	cmd.Flags().BoolVar(&run.mean, "mean", false, "read the mean over the text's tokens, without a prompt: faster, less good")
	cmd.Flags().Float64Var(&run.share, "validation", 0.1, "share of the texts that is not fitted to")
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func (r *classifierTrain) run(ctx context.Context, out, stderr io.Writer) error {
	if err := checkOutput("out", r.out, true); err != nil {
		return err
	}
	lines, err := readLabelled(r.data)
	if err != nil {
		return err
	}
	stat, err := os.Stat(r.data)
	if err != nil {
		return err
	}
	m, err := r.load(ctx, stderr)
	if err != nil {
		return err
	}
	defer m.Close()
	texts := make([]mlx.LabelledText, len(lines))
	for i, l := range lines {
		texts[i] = mlx.LabelledText{Text: l.text, Label: l.label, Group: l.group}
	}
	options := mlx.ClassifierOptions{Layers: r.layers, Prompt: r.prompt, Mean: r.mean, Validation: r.share, DataDate: stat.ModTime()}
	start := time.Now()
	c, err := mlx.TrainClassifier(ctx, m, texts, options)
	if err != nil {
		return err
	}
	if err := c.Save(r.out); err != nil {
		return err
	}
	info := c.Info()
	r.say(stderr, "fitted to %d texts in %.1f s: layer %d, shrinkage %v, temperature %.3f", info.Texts, time.Since(start).Seconds(), info.Layer, info.Shrinkage, info.Temperature)
	return info.Validation.WriteText(out)
}

type classifierEval struct {
	modelFlags
	classifier, labels, data string
	prompt, prior, abstain   string
	report, html             string
}

func classifierEvalCommand() *cobra.Command {
	run := &classifierEval{}
	cmd := &cobra.Command{
		Use:   "eval MODEL --classifier FILE --data FILE",
		Short: "Measure a classifier, or a model with a prompt, on labelled texts",
		Long: `Measure a classifier, or with --labels a model that was not trained, on labelled texts: precision, recall and F1 of every label and
language, confusion, calibration, what abstaining brings, and the surest mistakes.`,
		RunE: withModel(&run.path, func(cmd *cobra.Command) error {
			if (run.classifier == "") == (run.labels == "") {
				return usageError{errors.New("give --classifier or --labels")}
			}
			if run.abstain != "" && run.classifier == "" {
				return usageError{errors.New("--abstain-by goes with --classifier")}
			}
			return run.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	run.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&run.classifier, "classifier", "", "file of a trained classifier")
	flags.StringVarP(&run.labels, "labels", "l", "", "file of labels, for a model without a classifier")
	flags.StringVar(&run.prompt, "prompt", "", "label prompt with {labels} and {text}")
	flags.StringVar(&run.prior, "prior", "", "what is taken from the labels' scores: content-free, batch or none")
	flags.StringVar(&run.abstain, "abstain-by", "", "how the classifier recognises unknown texts: distance or energy (default: as its file says)")
	flags.StringVar(&run.data, "data", "", "file of LABEL<tab>TEXT[<tab>LANGUAGE] lines (required)")
	flags.StringVar(&run.report, "results", "", "write the report with all predictions to this file")
	flags.StringVar(&run.html, "html", "", "write the report as a page to this file")
	_ = cmd.MarkFlagRequired("data")
	return cmd
}

func (r *classifierEval) run(ctx context.Context, out, stderr io.Writer) error {
	if err := checkOutputs(map[string]string{"html": r.html, "results": r.report}); err != nil {
		return err
	}
	lines, err := readLabelled(r.data)
	if err != nil {
		return err
	}
	var labels []string
	var options []mlx.ClassifyOption
	if r.classifier != "" {
		c, err := mlx.LoadClassifier(r.classifier)
		if err != nil {
			return err
		}
		if r.abstain != "" {
			if c, err = c.AbstainBy(r.abstain); err != nil {
				return err
			}
		}
		labels, options = c.Info().Labels, append(options, mlx.WithClassifier(c))
	} else {
		var details map[string]mlx.LabelDetails
		if labels, details, err = readLabels(r.labels); err != nil {
			return fmt.Errorf("labels: %w", err)
		}
		options = append(options, mlx.WithLabels(mlx.LabelDescriptions(details)))
	}
	if r.prompt != "" {
		options = append(options, mlx.WithLabels(mlx.LabelPrompt(r.prompt)))
	}
	if r.prior != "" {
		options = append(options, mlx.WithLabels(mlx.LabelPrior(mlx.Prior(r.prior))))
	}
	m, err := r.load(ctx, stderr)
	if err != nil {
		return err
	}
	defer m.Close()
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = l.text
	}
	start := time.Now()
	results, err := m.Classify(ctx, texts, labels, options...)
	if err != nil {
		return err
	}
	took := time.Since(start)
	predictions := make([]mlx.Prediction, len(lines))
	for i, l := range lines {
		c := results[i]
		predictions[i] = mlx.Prediction{Text: l.text, Language: l.language, Truth: l.label, Label: c.Label, Probability: c.Probability, Confidence: c.Probability, Unknown: c.Abstained}
	}
	report, err := quality.NewReport(labels, predictions)
	if err != nil {
		return err
	}
	report.TextsPerSec = float64(len(texts)) / took.Seconds()
	if err := report.WriteText(out); err != nil {
		return err
	}
	if r.html != "" {
		if err := writeFile(r.html, func(w io.Writer) error { return report.WriteHTML(w, "Classification of "+r.data) }); err != nil {
			return err
		}
	}
	if r.report == "" {
		return nil
	}
	report.Predictions = predictions
	return writeFile(r.report, func(w io.Writer) error { return json.NewEncoder(w).Encode(report) })
}

func classifierCompareCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Test whether two classifiers differ",
		Long: `Test whether two classifiers differ in how often they are right, by McNemar's exact test. Both files are what "go-mlx classifier eval
--results" wrote for the same texts.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var reports [2]mlx.Report
			for i, path := range args {
				data, err := readTextFile(path)
				if err != nil {
					return err
				}
				if err := json.Unmarshal([]byte(data), &reports[i]); err != nil || len(reports[i].Predictions) == 0 {
					return fmt.Errorf("%s: it holds no predictions: write it with `go-mlx classifier eval --results`", path)
				}
			}
			c, err := quality.Compare(reports[0].Predictions, reports[1].Predictions)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, c)
			}
			fmt.Fprintf(out, "%d texts: A is right on %.1f %%, B on %.1f %%; both %d, only A %d, only B %d, neither %d; same label %.1f %%\n",
				c.Texts, 100*c.AccuracyA, 100*c.AccuracyB, c.Both, c.OnlyA, c.OnlyB, c.Neither, 100*float64(c.Agree)/float64(c.Texts))
			verdict := "no difference is shown"
			if c.PValue < 0.05 {
				verdict = "they differ"
			}
			fmt.Fprintf(out, "McNemar's exact test: p = %.3g, %s\n", c.PValue, verdict)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
