// Command compare measures the engines side by side: the same model and inputs, rounds interleaved,
// medians and their ratio as a Markdown table. `make bench` runs it.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
)

func main() {
	model := flag.String("model", "tests/models/domains", "model folder")
	data := flag.String("texts", "tests/corpus/heldout.tsv", "lines of LANGUAGE<tab>LABEL<tab>TEXT")
	labels := flag.String("labels", "tests/corpus/labels.txt", "labels file")
	cli := flag.String("cli", "bin/go-mlx", "the command line, for start-up times")
	only := flag.String("only", "", "measure only work whose name begins with one of these, separated by commas")
	train := flag.String("train", "", "compare LoRA training on the train.jsonl of this folder instead")
	t := training{warm: 2}
	flag.IntVar(&t.iterations, "iterations", 10, "of a run, with -train; the first two do not count")
	flag.IntVar(&t.batch, "batch", 4, "examples of a batch, with -train")
	flag.BoolVar(&t.whole, "whole", false, "train on whole texts instead of answers, with -train")
	flag.BoolVar(&t.exact, "exact", false, "measure the native engine with MLX's own ops, too, with -train")
	flag.BoolVar(&t.checkpoints, "checkpoints", false, "gradient checkpoints, with -train")
	rounds := flag.Int("rounds", 5, "rounds; the table has their medians")
	flag.Parse()
	if *train != "" {
		t.cli, t.model, t.data = *cli, *model, *train
		if err := compareTraining(context.Background(), t, *rounds); err != nil {
			fmt.Fprintln(os.Stderr, "compare:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(context.Background(), *model, *data, *labels, *cli, *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// engines are measured in this order in every round; the ratio is the second's time over the first's.
var engines = []mlx.Engine{mlx.EngineNative, mlx.EnginePython}

type work struct {
	name string
	run  func(ctx context.Context, e mlx.Engine, m mlx.TextModel) error
}

func run(ctx context.Context, model, data, labelsFile, cli, only string, rounds int) error {
	texts, err := readTexts(data)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(labelsFile)
	if err != nil {
		return err
	}
	labels := strings.Fields(string(raw))
	var many []string // all different, so that nothing can be remembered
	for i := 0; len(many) < 2000; i++ {
		many = append(many, fmt.Sprintf("%s %d", texts[i%len(texts)], i))
	}
	models := map[mlx.Engine]mlx.TextModel{}
	for _, e := range engines {
		m, err := mlx.LoadModel(model, mlx.WithEngine(e))
		if err != nil {
			return err
		}
		defer m.Close()
		models[e] = m
	}
	generate := func(prompt string, n int) func(context.Context, mlx.Engine, mlx.TextModel) error {
		return func(ctx context.Context, _ mlx.Engine, m mlx.TextModel) error {
			_, err := mlx.Collect(m.Generate(ctx, prompt, mlx.WithMaxTokens(n), mlx.WithSampling(mlx.IgnoreEOS())))
			return err
		}
	}
	classify := func(texts []string) func(context.Context, mlx.Engine, mlx.TextModel) error {
		return func(ctx context.Context, _ mlx.Engine, m mlx.TextModel) error {
			_, err := m.Classify(ctx, texts, labels)
			return err
		}
	}
	atOnce := func(n int) func(context.Context, mlx.Engine, mlx.TextModel) error {
		return func(ctx context.Context, _ mlx.Engine, m mlx.TextModel) error {
			var group errgroup.Group
			for i := range n {
				group.Go(func() error {
					_, err := mlx.Collect(m.Generate(ctx, texts[i%len(texts)], mlx.WithMaxTokens(50), mlx.WithSampling(mlx.IgnoreEOS())))
					return err
				})
			}
			return group.Wait()
		}
	}
	oneByOne := func(texts []string) func(context.Context, mlx.Engine, mlx.TextModel) error {
		return func(ctx context.Context, e mlx.Engine, m mlx.TextModel) error {
			for _, text := range texts {
				if err := classify([]string{text})(ctx, e, m); err != nil {
					return err
				}
			}
			return nil
		}
	}
	works := []work{
		{"classify 2,000 texts, one call", classify(many)},
		{"classify 200 texts, one by one", oneByOne(many[:200])},
		{"8 requests of 50 tokens at once", atOnce(8)},
		{"32 requests of 50 tokens at once", atOnce(32)},
		{fmt.Sprintf("classify %d texts, one call", len(texts)), classify(texts)},
		{"classify 1 text", classify(texts[:1])},
		{"generate 200 tokens", generate("Where can I find", 200)},
		{"first token of a 1,500-token prompt", generate(strings.Repeat("Where can I find it? ", 214), 1)},
		{"process start to first label", func(ctx context.Context, e mlx.Engine, _ mlx.TextModel) error {
			cmd := exec.CommandContext(ctx, cli, "classify", "-q", "-m", model, "-l", labelsFile, "-e", string(e))
			cmd.Stdin = strings.NewReader(texts[0] + "\n")
			return cmd.Run()
		}},
	}
	fmt.Printf("| work | native | python | python / native |\n|---|---|---|---|\n")
	for _, w := range works {
		if !slices.ContainsFunc(strings.Split(only, ","), func(name string) bool { return strings.HasPrefix(w.name, name) }) {
			continue
		}
		times := map[mlx.Engine][]time.Duration{}
		for round := range rounds + 1 {
			for _, e := range engines {
				start := time.Now()
				if err := w.run(ctx, e, models[e]); err != nil {
					return fmt.Errorf("%s, %s: %w", w.name, e, err)
				}
				if round > 0 { // the first round warms up
					times[e] = append(times[e], time.Since(start))
				}
			}
		}
		native, python := median(times[mlx.EngineNative]), median(times[mlx.EnginePython])
		fmt.Printf("| %s | %s | %s | %.2f |\n", w.name, show(native), show(python), float64(python)/float64(native))
	}
	return nil
}

func median[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func show(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1e3) }

func readTexts(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var texts []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		texts = append(texts, fields[len(fields)-1])
	}
	return texts, nil
}
