// Command llamacpp compares the native engine on the CPU with llama.cpp: the same model, the same token ids, in turn in one run,
// medians. `make bench-llamacpp` sets it up.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// peer is a process of peer.mjs.
type peer struct {
	in  io.Writer
	out *bufio.Reader
}

func startPeer(ctx context.Context, folder, gguf string) (*peer, error) {
	file, err := filepath.Abs(gguf)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "node", "peer.mjs", file, fmt.Sprint(runtime.NumCPU()))
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &peer{in, bufio.NewReader(out)}
	_, err = p.out.ReadBytes('\n') // it is ready
	return p, err
}

type times struct{ First, Rest, Total float64 }

func (p *peer) ask(job string, fields map[string]any) (t times, err error) {
	fields["job"] = job
	request, err := json.Marshal(fields)
	if err != nil {
		return t, err
	}
	if _, err := p.in.Write(append(request, '\n')); err != nil {
		return t, err
	}
	answer, err := p.out.ReadBytes('\n')
	if err != nil {
		return t, fmt.Errorf("llama.cpp: %w", err)
	}
	return t, json.Unmarshal(answer, &t)
}

// generate times the first token of a prompt and n-1 more, in milliseconds.
func generate(ctx context.Context, m mlx.TextModel, ids []int32, n int) (t times, err error) {
	begin := time.Now()
	var first time.Time
	options := []mlx.GenerateOption{mlx.WithMaxTokens(n), mlx.WithSampling(mlx.IgnoreEOS())}
	for _, err := range m.GenerateIDs(ctx, ids, options...) {
		if err != nil {
			return t, err
		}
		if first.IsZero() {
			first = time.Now()
		}
	}
	return times{First: first.Sub(begin).Seconds() * 1e3, Rest: time.Since(first).Seconds() * 1e3}, nil
}

// row is one line of the table: what each side takes, in turn.
type row struct {
	name   string
	rounds int
	ours   func() (float64, error)
	theirs func() (float64, error)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func run(ctx context.Context) error {
	model := flag.String("model", "", "model folder for the native engine")
	gguf := flag.String("gguf", "", "the same model for llama.cpp")
	folder := flag.String("peer", "build/llamacpp", "folder with peer.mjs and node-llama-cpp")
	only := flag.String("only", "", "rows whose names hold this")
	flag.Parse()
	m, err := mlx.LoadModelContext(ctx, *model, mlx.WithEngine(mlx.EngineNative))
	if err != nil {
		return err
	}
	defer m.Close()
	p, err := startPeer(ctx, *folder, *gguf)
	if err != nil {
		return err
	}
	heldout, err := os.ReadFile("tests/corpus/heldout.tsv")
	if err != nil {
		return err
	}
	labelText, err := os.ReadFile("tests/corpus/labels.txt")
	if err != nil {
		return err
	}
	labels := strings.Fields(string(labelText))
	var texts []string
	for line := range strings.Lines(string(heldout)) {
		if parts := strings.Split(strings.TrimSpace(line), "\t"); len(parts) == 3 {
			texts = append(texts, parts[2])
		}
	}
	texts = texts[:40]
	encode := func(text string) ([]int32, error) { return m.Tokenizer().Encode(ctx, text, true) }
	short, err := encode("The capital of France is")
	if err != nil {
		return err
	}
	long, err := encode(strings.Repeat("The goalkeeper saved two penalties, and the dough must rest for an hour. ", 40))
	if err != nil {
		return err
	}
	long = long[:592]
	var prompts [][]int32 // of the texts, as classification has them
	for _, text := range texts {
		ids, err := encode("Classify the text. Answer with one of: " + strings.Join(labels, ", ") + ".\n\nText: " + text + "\nAnswer:")
		if err != nil {
			return err
		}
		prompts = append(prompts, ids)
	}
	const decoded = 100
	parallel := func(n int) (func() (float64, error), func() (float64, error)) {
		some := prompts[:n]
		ours := func() (float64, error) {
			begin := time.Now()
			var group sync.WaitGroup
			errs := make([]error, n)
			for i := range n {
				group.Go(func() { _, errs[i] = generate(ctx, m, some[i], 50) })
			}
			group.Wait()
			for _, err := range errs {
				if err != nil {
					return 0, err
				}
			}
			return time.Since(begin).Seconds() * 1e3, nil
		}
		theirs := func() (float64, error) {
			t, err := p.ask("parallel", map[string]any{"prompts": some, "n": 50})
			return t.Total, err
		}
		return ours, theirs
	}
	ours8, theirs8 := parallel(8)
	ours32, theirs32 := parallel(32)
	classify := func() (float64, error) {
		t, err := p.ask("classify", map[string]any{"prompts": prompts})
		return t.Total, err
	}
	rows := []row{
		{"100 tokens decoded", 5, func() (float64, error) {
			t, err := generate(ctx, m, short, decoded)
			return t.Rest, err
		}, func() (float64, error) {
			t, err := p.ask("generate", map[string]any{"tokens": short, "n": decoded})
			return t.Rest, err
		}},
		{"first token of a prompt of 592", 5, func() (float64, error) {
			t, err := generate(ctx, m, long, 1)
			return t.First, err
		}, func() (float64, error) {
			t, err := p.ask("generate", map[string]any{"tokens": long, "n": 1})
			return t.First, err
		}},
		{"first token of a prompt of 6", 5, func() (float64, error) {
			t, err := generate(ctx, m, short, 1)
			return t.First, err
		}, func() (float64, error) {
			t, err := p.ask("generate", map[string]any{"tokens": short, "n": 1})
			return t.First, err
		}},
		{"40 texts classified one by one", 3, func() (float64, error) {
			begin := time.Now()
			for _, text := range texts {
				if _, err := m.Classify(ctx, []string{text}, labels); err != nil {
					return 0, err
				}
			}
			return time.Since(begin).Seconds() * 1e3, nil
		}, classify},
		{"40 texts classified in one call, by llama.cpp one by one", 3, func() (float64, error) {
			begin := time.Now()
			_, err := m.Classify(ctx, texts, labels)
			return time.Since(begin).Seconds() * 1e3, err
		}, classify},
		{"8 requests at once, 50 tokens each", 3, ours8, theirs8},
		{"32 requests at once, 50 tokens each", 3, ours32, theirs32},
	}
	fmt.Printf("| | go-mlx ms | llama.cpp ms | ratio |\n|---|---|---|---|\n")
	for _, r := range rows {
		if !strings.Contains(r.name, *only) {
			continue
		}
		var a, b []float64
		for range r.rounds + 1 { // the first warms both sides
			ours, err := r.ours()
			if err != nil {
				return err
			}
			theirs, err := r.theirs()
			if err != nil {
				return err
			}
			a, b = append(a, ours), append(b, theirs)
		}
		ours, theirs := median(a[1:]), median(b[1:])
		fmt.Printf("| %s | %.0f | %.0f | %.2f |\n", r.name, ours, theirs, theirs/ours)
	}
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "llamacpp:", err)
		os.Exit(1)
	}
}
