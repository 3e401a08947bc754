//go:build cgo && !nonative

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/parity"
	"forge.lthn.ai/core/go-mlx/native"
)

// parityPrompts are compared when no file is given: several scripts, code, and one that is longer than usual windows of
// small models.
var parityPrompts = []string{
	"The goalkeeper saved a penalty in the last minute of the match.",
	"Where can I find a recipe for lentil soup?",
	"Der Vertrag wurde gestern in Berlin unterschrieben, 14 Tage zu spät.",
	"def mean(xs):\n    return sum(xs) / len(xs)\n",
	"速い茶色の狐がのろまな犬を飛び越える。🦊 naïve café, 1e-5",
	strings.Repeat("One of the engines computes this sentence with a window that slides. ", 6),
}

type parityRun struct {
	model                                string
	python, prompts, labels, html, check string
	trust, exact, json, quiet            bool
	options                              parity.Options
}

func parityCommand() *cobra.Command {
	run := &parityRun{}
	cmd := &cobra.Command{
		Use:   "parity MODEL",
		Short: "Compare the native engine with mlx-lm, layer by layer",
		Long: `Compare the native engine with mlx-lm on one model: token ids, the chat template, every layer's states, logits, chosen
tokens and labels; and each engine with itself, in a batch and with a KV cache. Where the layers differ, the first op that differs
is named. The exit status is 1 if the engines differ by more than the tolerance.`,
		RunE: withModel(&run.model, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), run.model, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	flags := cmd.Flags()
	addModelFlag(cmd, &run.model)
	flags.StringVar(&run.prompts, "prompts", "", "file with one prompt a line")
	flags.StringVarP(&run.labels, "labels", "l", "", "file with labels: compare classifications of the prompts too")
	flags.IntVarP(&run.options.Tokens, "max-tokens", "n", 32, "tokens to generate for each prompt")
	flags.IntVar(&run.options.Rows, "rows", 4, "rows of the batches that are compared with one row")
	flags.Float64Var(&run.options.Tolerance, "tolerance", 0, "largest relative difference of a layer (default by dtype: 0.02 for bfloat16, 0.005 for float16, 1e-4 for float32)")
	flags.BoolVar(&run.exact, "exact", false, "MLX's own kernels only, as mlx-lm uses them (native engine)")
	flags.StringVar(&run.python, "python", "", "Python interpreter with mlx-lm")
	flags.BoolVar(&run.trust, "trust-remote-code", false, "let Python code in the model folder run")
	flags.BoolVar(&run.json, "json", false, "print the whole result as JSON")
	flags.StringVar(&run.html, "html", "", "write a page with plots to this file")
	flags.StringVar(&run.check, "check", "", "JSON file of an earlier result: say whether it still holds, and compare nothing")
	flags.BoolVarP(&run.quiet, "quiet", "q", false, "say nothing on stderr but errors")
	return cmd
}

// errDiffer is the error of a comparison that did not pass.
var errDiffer = errors.New("the engines differ")

func (r *parityRun) run(ctx context.Context, model string, stdout, stderr io.Writer) error {
	if err := checkOutputs(map[string]string{"html": r.html}); err != nil {
		return err
	}
	dir, err := mlx.Locate(model)
	if err != nil {
		return err
	}
	from, err := modelfiles.Find(dir)
	if err != nil {
		return err
	}
	if from.GGUF != "" {
		return fmt.Errorf("%s: mlx-lm, which is what the native engine is compared with, reads no GGUF files: make a folder of it with go-mlx convert", from.GGUF)
	}
	r.options.Prompts = parityPrompts
	if r.prompts != "" {
		if r.options.Prompts, err = readLines(r.prompts); err != nil {
			return err
		}
	}
	if r.labels != "" {
		if r.options.Labels, err = readLines(r.labels); err != nil {
			return err
		}
	}
	key, err := r.key(ctx, dir)
	if err != nil {
		return err
	}
	if r.check != "" {
		return r.checkResult(key, stdout)
	}
	report, err := r.compare(ctx, dir, stderr)
	if err != nil {
		return err
	}
	report.Key = key
	if err := r.write(report, stdout); err != nil {
		return err
	}
	if !report.Passed {
		return errDiffer
	}
	return nil
}

// key names the versions, options and files that a result of today holds for.
func (r *parityRun) key(ctx context.Context, dir string) (parity.Key, error) {
	tool, err := bridge.NewTool(r.python)
	if err != nil {
		return nil, err
	}
	versions, err := tool.Versions(ctx)
	if err != nil {
		return nil, err
	}
	if versions["native MLX"], err = native.Version(); err != nil {
		return nil, err
	}
	versions["native kernels"] = "fused where the device has them"
	if r.exact {
		versions["native kernels"] = "MLX's"
	}
	return parity.NewKey(dir, r.options, versions)
}

func (r *parityRun) checkResult(now parity.Key, stdout io.Writer) error {
	data, err := readTextFile(r.check)
	if err != nil {
		return err
	}
	var old parity.Report
	if err := json.Unmarshal([]byte(data), &old); err != nil {
		return fmt.Errorf("%s is not a result of go-mlx parity --json: %w", r.check, err)
	}
	if stale := old.Key.Stale(now); len(stale) > 0 {
		return fmt.Errorf("the result is stale: %s", strings.Join(stale, "; "))
	}
	if !old.Passed {
		fmt.Fprintln(stdout, "the result still holds: the engines differ")
		return errDiffer
	}
	fmt.Fprintln(stdout, "the result still holds: the engines agree")
	return nil
}

func (r *parityRun) compare(ctx context.Context, dir string, stderr io.Writer) (_ *parity.Report, err error) {
	bars := newBars(stderr, r.quiet)
	defer bars.clear()
	first, err := native.Load(ctx, dir, engine.NativeOptions{Exact: r.exact})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	second, err := bridge.Load(ctx, dir, bridge.Options{Python: r.python, TrustRemoteCode: r.trust, Events: bars.show})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, second.Close()) }()
	r.options.Progress = func(done, total int) {
		bars.show(mlx.Event{Kind: mlx.EventOutput, Label: "comparing", Done: int64(done), Total: int64(total)})
	}
	return parity.Run(ctx, first, second, r.options)
}

func (r *parityRun) write(report *parity.Report, stdout io.Writer) error {
	if r.html != "" {
		if err := writeFile(r.html, report.WriteHTML); err != nil {
			return err
		}
	}
	if r.json {
		return printJSON(stdout, report)
	}
	return printReport(report, stdout)
}

func printReport(report *parity.Report, stdout io.Writer) error {
	fmt.Fprintf(stdout, "%s against %s, %s, %d prompts\n\n", report.Engines[0], report.Engines[1], report.DType, len(report.Prompts))
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, c := range report.Checks {
		result := "passed"
		if !c.Passed {
			result = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, result, c.Detail)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nrelative differences (tolerance %.2g; 0 is bit-equal)\n", report.Tolerance)
	fmt.Fprintf(w, "\t%s\n", strings.Join(report.Columns, "\t"))
	for _, layer := range report.Layers {
		fmt.Fprint(w, layer.Name)
		for _, d := range layer.Differences {
			fmt.Fprintf(w, "\t%.2g", d.Relative)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d := report.Diverging; d != nil {
		fmt.Fprintf(stdout, "\nthe layers' states are %s (prompt %d)\n", d, d.Prompt)
	} else {
		fmt.Fprintln(stdout, "\nevery layer's states are bit-equal")
	}
	return nil
}
