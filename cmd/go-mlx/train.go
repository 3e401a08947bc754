package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
)

type trainRun struct {
	model string
	mlx.TrainOptions
	engine, python, plot string
	quiet                bool
}

func trainCommand() *cobra.Command {
	run := &trainRun{TrainOptions: mlx.DefaultTrainOptions()}
	cmd := &cobra.Command{
		Use:   "train MODEL --data DIR --out DIR",
		Short: "Train a LoRA adapter",
		Long: `Train a LoRA adapter on DIR/train.jsonl, with DIR/valid.jsonl for validation. Lines are {"text": ...}, {"prompt": ...,
"completion": ...} or {"messages": [...]}, as in mlx-lm. The adapter serves both engines (--adapter). Every line of the log that
is printed is also written to training_log.jsonl in the output folder.`,
		RunE: withModel(&run.model, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), run.model, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	flags := cmd.Flags()
	addModelFlag(cmd, &run.model)
	flags.StringVar(&run.Data, "data", "", "folder with train.jsonl and valid.jsonl (required)")
	flags.StringVar(&run.Out, "out", "", "folder of the adapter (required)")
	flags.StringVarP(&run.engine, "engine", "e", "native", "native, or python for mlx-lm's own tuner")
	flags.StringVar(&run.python, "python", "", "Python interpreter with mlx-lm (python engine)")
	flags.IntVar(&run.Iterations, "iters", run.Iterations, "batches to train on")
	flags.IntVar(&run.BatchSize, "batch-size", run.BatchSize, "examples of a batch")
	flags.IntVar(&run.Accumulate, "accumulate", run.Accumulate, "batches whose gradients make one update")
	flags.Float64Var(&run.LearningRate, "learning-rate", run.LearningRate, "learning rate of AdamW")
	flags.StringVar(&run.Schedule, "schedule", run.Schedule, "schedule of the learning rate: constant, linear or cosine")
	flags.IntVar(&run.Warmup, "warmup", 0, "updates in which the learning rate rises from 0")
	flags.Float64Var(&run.WeightDecay, "weight-decay", run.WeightDecay, "weight decay of AdamW")
	flags.IntVar(&run.Rank, "rank", run.Rank, "rank of the LoRAs")
	flags.Float32Var(&run.Scale, "scale", run.Scale, "factor of the LoRAs")
	flags.IntVar(&run.NumLayers, "num-layers", run.NumLayers, "blocks to adapt, from the last one on; 0 for all")
	flags.StringSliceVar(&run.Keys, "keys", nil, "linear layers of a block to adapt, e.g. self_attn.q_proj (default all)")
	flags.BoolVar(&run.MaskPrompt, "mask-prompt", false, "train on answers only")
	flags.IntVar(&run.MaxSeqLength, "max-seq-length", run.MaxSeqLength, "tokens after which examples are cut")
	flags.BoolVar(&run.Packed, "packed", false, "several short examples in one row (native engine)")
	flags.BoolVar(&run.Exact, "exact", false, "MLX's own ops in mlx-lm's order, for the bits of mlx-lm's tuner: many times as slow on Linux CPUs (native engine)")
	flags.BoolVar(&run.Checkpoint, "grad-checkpoint", false, "less memory, more time")
	flags.Uint64Var(&run.Seed, "seed", 0, "seed of the order of examples and of the LoRAs' first values")
	flags.IntVar(&run.EvalEvery, "eval-every", run.EvalEvery, "batches between validations; 0 for none")
	flags.IntVar(&run.EvalBatches, "eval-batches", run.EvalBatches, "batches of a validation; 0 for all")
	flags.IntVar(&run.SaveEvery, "save-every", run.SaveEvery, "batches between savings")
	flags.BoolVar(&run.Resume, "resume", false, "go on from what was saved in the output folder (native engine)")
	flags.StringVar(&run.plot, "plot", "", "write a plot of the losses to this SVG file")
	flags.BoolVarP(&run.quiet, "quiet", "q", false, "print the last line of the log only")
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func (r *trainRun) run(ctx context.Context, model string, stdout, stderr io.Writer) (err error) {
	if model, err = mlx.Locate(model); err != nil {
		return err
	}
	if err := r.TrainOptions.Validate(); err != nil {
		return usageError{err}
	}
	switch r.engine {
	case "native":
	case "python":
		return r.runPython(ctx, model, stderr)
	default:
		return usageError{fmt.Errorf("--engine %q is none of native and python", r.engine)}
	}
	if err := os.MkdirAll(r.Out, 0o755); err != nil {
		return err
	}
	if err := checkOutputs(map[string]string{"plot": r.plot}); err != nil {
		return err
	}
	mode := os.O_TRUNC
	if r.Resume {
		mode = os.O_APPEND
	}
	log, err := os.OpenFile(filepath.Join(r.Out, "training_log.jsonl"), os.O_CREATE|os.O_WRONLY|mode, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	bars := newBars(stderr, r.quiet)
	defer bars.clear()
	curve := &lossCurve{}
	var logErr error
	since, sum, count := 0, 0.0, 0
	r.Progress = func(p mlx.TrainProgress) {
		bars.show(mlx.Event{Kind: mlx.EventOutput, Label: "training", Done: int64(p.Iteration), Total: int64(r.Iterations)})
		curve.add(p)
		line, err := json.Marshal(p)
		if err == nil {
			_, err = fmt.Fprintln(log, string(line))
		}
		logErr = errors.Join(logErr, err)
		sum, count = sum+p.Loss, count+1
		const every = 10
		if p.Iteration/every > since || p.Validation != 0 || p.Iteration == r.Iterations {
			if since = p.Iteration / every; !r.quiet || p.Iteration == r.Iterations {
				bars.line(stdout, trainLine(p, sum/float64(count)))
			}
			sum, count = 0, 0
		}
	}
	result, err := mlx.Train(ctx, model, r.TrainOptions)
	if err := errors.Join(err, logErr); err != nil {
		return err
	}
	bars.clear()
	if !r.quiet {
		fmt.Fprintf(stderr, "%d parameters trained; the adapter is in %s\n", result.Parameters, r.Out)
	}
	if r.plot != "" {
		return os.WriteFile(r.plot, []byte(curve.svg()), 0o644)
	}
	return nil
}

func trainLine(p mlx.TrainProgress, mean float64) string {
	line := fmt.Sprintf("iteration %d: loss %.4f, learning rate %.3g, %.0f tokens/s, peak %.1f MB",
		p.Iteration, mean, p.LearningRate, float64(p.Tokens)/p.Seconds, float64(p.PeakBytes)/1e6)
	if p.Validation != 0 {
		line += fmt.Sprintf(", validation %.4f", p.Validation)
	}
	return line
}

// runPython hands the run to mlx-lm's tuner, which prints its own log.
func (r *trainRun) runPython(ctx context.Context, model string, stderr io.Writer) error {
	for option, set := range map[string]bool{"--packed": r.Packed, "--exact": r.Exact, "--resume": r.Resume, "--plot": r.plot != ""} {
		if set {
			return usageError{fmt.Errorf("%s: only the native engine has it", option)}
		}
	}
	tool, err := bridge.NewTool(r.python)
	if err != nil {
		return err
	}
	tool.Stderr = stderr
	updates := r.Iterations / r.Accumulate
	config := map[string]any{
		"model": model, "train": true, "data": r.Data, "adapter_path": r.Out, "fine_tune_type": "lora", "optimizer": "adamw",
		"optimizer_config": map[string]any{"adamw": map[string]any{"weight_decay": r.WeightDecay}},
		"iters":            r.Iterations, "batch_size": r.BatchSize, "grad_accumulation_steps": r.Accumulate, "learning_rate": r.LearningRate,
		"num_layers": max(r.NumLayers, 0), "mask_prompt": r.MaskPrompt, "max_seq_length": r.MaxSeqLength,
		"grad_checkpoint": r.Checkpoint, "seed": r.Seed, "steps_per_eval": max(r.EvalEvery, 1), "val_batches": r.EvalBatches, "save_every": max(r.SaveEvery, 1),
		"lora_parameters": map[string]any{"rank": r.Rank, "scale": r.Scale, "dropout": 0},
	}
	if r.NumLayers <= 0 {
		config["num_layers"] = -1
	}
	if r.EvalBatches == 0 {
		config["val_batches"] = -1
	}
	if len(r.Keys) > 0 {
		config["lora_parameters"].(map[string]any)["keys"] = r.Keys
	}
	switch r.Schedule {
	case "linear":
		config["lr_schedule"] = schedule("linear_schedule", r.Warmup, r.LearningRate, 0, updates-r.Warmup)
	case "cosine":
		config["lr_schedule"] = schedule("cosine_decay", r.Warmup, r.LearningRate, updates-r.Warmup)
	case "constant":
		if r.Warmup > 0 {
			config["lr_schedule"] = schedule("linear_schedule", r.Warmup, r.LearningRate, r.LearningRate, updates)
		}
	}
	data, err := json.Marshal(config) // which is YAML too
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "go-mlx-train-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	_, err = tool.Run(ctx, "-m", "go_mlx_worker.train", "-c", file.Name())
	return err
}

func schedule(name string, warmup int, arguments ...any) map[string]any {
	return map[string]any{"name": name, "warmup": warmup, "arguments": arguments}
}

// lossCurve collects what the plot shows.
type lossCurve struct{ train, validation [][2]float64 }

func (c *lossCurve) add(p mlx.TrainProgress) {
	c.train = append(c.train, [2]float64{float64(p.Iteration), p.Loss})
	if p.Validation != 0 {
		c.validation = append(c.validation, [2]float64{float64(p.Iteration), p.Validation})
	}
}

// svg draws the losses over iterations, from 0 to the largest one.
func (c *lossCurve) svg() string {
	const left, top, width, height = 56.0, 16.0, 720.0, 300.0
	first, last, most := c.train[0][0], c.train[len(c.train)-1][0], 0.0
	for _, p := range append(c.train, c.validation...) {
		most = max(most, p[1])
	}
	place := func(p [2]float64) (x, y float64) {
		return left + width*(p[0]-first)/max(1, last-first), top + height*(1-p[1]/max(most, 1e-9))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", left+width+20, top+height+44)
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	for i := range 5 {
		value := most * float64(i) / 4
		_, y := place([2]float64{first, value})
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#d9dee7"/><text x="%g" y="%.1f" text-anchor="end" fill="#5d6778">%s</text>`+"\n",
			left, left+width, y, y, left-8, y+4, strconv.FormatFloat(value, 'g', 3, 64))
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" fill="#5d6778">iteration %g</text><text x="%g" y="%g" text-anchor="end" fill="#5d6778">%g</text>`+"\n",
		left, top+height+18, first, left+width, top+height+18, last)
	for i, line := range []struct {
		name, colour string
		points       [][2]float64
		width        float64
	}{{"training loss", "#6aa1f0", c.train, 1}, {"mean of the last 20", "#2463c5", smooth(c.train, 20), 2.5}, {"validation loss", "#b3261e", c.validation, 2.5}} {
		if len(line.points) == 0 {
			continue
		}
		var points []string
		for _, p := range line.points {
			x, y := place(p)
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
			if line.name == "validation loss" {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x, y, line.colour)
			}
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="%g" points="%s"/>`+"\n", line.colour, line.width, strings.Join(points, " "))
		fmt.Fprintf(&b, `<rect x="%g" y="%g" width="10" height="10" fill="%s"/><text x="%g" y="%g" fill="#1c2330">%s</text>`+"\n",
			left+180*float64(i), top+height+28, line.colour, left+180*float64(i)+16, top+height+37, line.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// smooth is the mean of each point and those before it.
func smooth(points [][2]float64, n int) [][2]float64 {
	out := make([][2]float64, len(points))
	for i := range points {
		sum := 0.0
		from := max(0, i-n+1)
		for _, p := range points[from : i+1] {
			sum += p[1]
		}
		out[i] = [2]float64{points[i][0], sum / float64(i+1-from)}
	}
	return out
}
