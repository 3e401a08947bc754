// Command go-i18n sorts a file of sentences by domain, as go-i18n does to learn how domains speak: it reads JSON lines, or a catalogue of
// translations (.po, .json), writes them with the domain added, shows how far it is, and goes on where it was when it is started again.
//
//	go run ./examples/go-i18n -model tests/models/domains -labels tests/corpus/labels.txt sentences.jsonl sorted.jsonl
//
//	go run ./examples/go-i18n -model gemma.gguf -classifier domains.safetensors django.po sorted.jsonl
//	go run ./examples/go-i18n -agree sorted.jsonl sorted-by-another-model.jsonl
//
// With a classifier that "go-mlx classifier train" made, domains are the classifier's. -agree says how far two models agree. Of a catalogue each
// string becomes a line with its key.
//
// Each input line is an object with the sentence in "prompt" (-field names another one); all its fields are kept. The
// domain is added as "domain", with "domain_probability" and "domain_margin"; an unsure one is "unknown".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/term"

	mlx "forge.lthn.ai/core/go-mlx"
)

func main() {
	var j job
	model := flag.String("model", "", "model folder")
	labels := flag.String("labels", "", "file of domains, one a line")
	classifier := flag.String("classifier", "", "file of a trained classifier, instead of domains")
	agree := flag.Bool("agree", false, "say how far two sorted files agree")
	engine := flag.String("engine", "auto", "auto, native or python")
	flag.StringVar(&j.field, "field", "prompt", "field that holds the sentence")
	flag.Float64Var(&j.abstain, "abstain", 0, "probability below which the domain is unknown")
	flag.Parse()
	if *agree && flag.NArg() == 2 {
		if err := agreement(os.Stdout, flag.Arg(0), flag.Arg(1), j.field); err != nil {
			fmt.Fprintln(os.Stderr, "go-i18n:", err)
			os.Exit(1)
		}
		return
	}
	if *model == "" || (*labels == "") == (*classifier == "") || flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: go-i18n -model DIR -labels FILE | -classifier FILE IN.jsonl|IN.po|IN.json OUT.jsonl, or go-i18n -agree A.jsonl B.jsonl")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	j.in, j.out, j.progress = flag.Arg(0), flag.Arg(1), show(os.Stderr)
	if err := run(ctx, *model, *labels, *classifier, *engine, j); err != nil {
		fmt.Fprintln(os.Stderr, "go-i18n:", err)
		if errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "start it again to go on")
			os.Exit(130)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, model, labels, classifier, engine string, j job) error {
	if classifier != "" {
		c, err := mlx.LoadClassifier(classifier)
		if err != nil {
			return err
		}
		j.use, j.labels = c, c.Info().Labels
	} else {
		data, err := os.ReadFile(labels)
		if err != nil {
			return err
		}
		j.labels = readLabels(string(data))
	}
	m, err := mlx.LoadModelContext(ctx, model, mlx.WithEngine(mlx.Engine(engine)))
	if err != nil {
		return err
	}
	defer m.Close()
	stats, err := j.run(ctx, m)
	fmt.Fprintf(os.Stderr, "%d sentences, %d of them before; %.0f a second\n", stats.Done, stats.Before, stats.Rate())
	for _, label := range append(j.labels, unknown) {
		if n := stats.ByDomain[label]; n > 0 {
			fmt.Fprintf(os.Stderr, "%8d  %s\n", n, label)
		}
	}
	return err
}

// readLabels are the lines that are not empty. A label may have spaces; a mark that some editors put before the first line is no
// part of it.
func readLabels(text string) (labels []string) {
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		if line = strings.TrimSpace(line); line != "" {
			labels = append(labels, line)
		}
	}
	return labels
}

// show writes the progress once a second; over the same line on a terminal.
func show(out io.Writer) func(stats) {
	f, isFile := out.(*os.File)
	terminal := isFile && term.IsTerminal(int(f.Fd()))
	var last time.Time
	return func(s stats) {
		every := 10 * time.Second
		if terminal {
			every = time.Second / 5
		}
		finished := s.Bytes == s.TotalBytes
		if time.Since(last) < every && !finished {
			return
		}
		last = time.Now()
		line := fmt.Sprintf("%5.1f %%  %d sentences  %.0f a second  %s left", 100*float64(s.Bytes)/float64(max(s.TotalBytes, 1)), s.Done, s.Rate(), s.Left().Round(time.Second))
		if terminal {
			fmt.Fprintf(out, "\r\x1b[K%s", line)
			if finished {
				fmt.Fprintln(out)
			}
			return
		}
		fmt.Fprintln(out, line)
	}
}
