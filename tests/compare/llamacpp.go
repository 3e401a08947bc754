package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// llamaCPP is a process of llamacpp.py.
type llamaCPP struct {
	in  io.Writer
	out *bufio.Reader
}

func startLlamaCPP(ctx context.Context, python, model, gguf string, labels []string, vocab int) (*llamaCPP, error) {
	cmd := exec.CommandContext(ctx, python, "tests/compare/llamacpp.py")
	cmd.Stderr = os.Stderr
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
	l := &llamaCPP{in, bufio.NewReader(out)}
	return l, l.send(map[string]any{"model": model, "gguf": gguf, "labels": labels, "threads": runtime.NumCPU(), "vocab": vocab})
}

func (l *llamaCPP) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = l.in.Write(append(data, '\n'))
	return err
}

func (l *llamaCPP) classify(texts []string) (labels []string, err error) {
	if err := l.send(texts); err != nil {
		return nil, err
	}
	line, err := l.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("llama.cpp: %w", err)
	}
	return labels, json.Unmarshal(line, &labels)
}

// compareLlamaCPP classifies the same texts with the native engine and with llama.cpp.
func compareLlamaCPP(ctx context.Context, m mlx.TextModel, python, model, gguf string, texts, labels []string, rounds int) error {
	l, err := startLlamaCPP(ctx, python, model, gguf, labels, m.Info().VocabSize)
	if err != nil {
		return err
	}
	native := func(texts []string) ([]string, error) {
		results, err := m.Classify(ctx, texts, labels)
		var out []string
		for _, r := range results {
			out = append(out, r.Label)
		}
		return out, err
	}
	fmt.Printf("| work | native | llama.cpp | llama.cpp / native | same labels |\n|---|---|---|---|---|\n")
	for _, w := range []struct {
		name string
		size int // of a call
	}{{"classify 2,000 texts, one call", len(texts)}, {"classify 200 texts, one by one", 1}} {
		texts := texts
		if w.size == 1 {
			texts = texts[:200]
		}
		times := map[string][]time.Duration{}
		same := 0
		for round := range rounds + 1 {
			found := map[string][]string{}
			for name, classify := range map[string]func([]string) ([]string, error){"native": native, "llama.cpp": l.classify} {
				start := time.Now()
				for i := 0; i < len(texts); i += w.size {
					labels, err := classify(texts[i:][:w.size])
					if err != nil {
						return err
					}
					found[name] = append(found[name], labels...)
				}
				if round > 0 { // the first round warms up
					times[name] = append(times[name], time.Since(start))
				}
			}
			same = 0
			for i, label := range found["native"] {
				if label == found["llama.cpp"][i] {
					same++
				}
			}
		}
		a, b := median(times["native"]), median(times["llama.cpp"])
		fmt.Printf("| %s | %s | %s | %.2f | %d of %d |\n", w.name, show(a), show(b), float64(b)/float64(a), same, len(texts))
	}
	return nil
}
