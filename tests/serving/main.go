// Command serving measures the bridge against mlx_lm.server over HTTP and against mlx-lm in its own
// process: the same model, prompts and token counts, rounds interleaved, medians as a Markdown table.
// `make bench-serving` runs it; `make bench-server` puts whole servers under load.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

func main() {
	model := flag.String("model", "tests/models/domains", "model folder")
	python := flag.String("python", ".venv/bin/python", "interpreter with mlx-lm")
	rounds := flag.Int("rounds", 5, "rounds; the table has their medians")
	starts := flag.Int("starts", 5, "how often to measure the start")
	cancels := flag.Bool("cancels", true, "measure cancels: the serving process must use no processor time when it is idle")
	loaded := flag.Bool("load", false, "instead, put the server of this project and mlx_lm.server under load, with clients that leave")
	hostile := flag.Bool("hostile", false, "with -load: only the level with hostile clients")
	engines := flag.String("engines", "native,python", "with -load: the engines of this project's server")
	perClient := flag.Int("per-client", 4, "requests of each client, with -load")
	flag.Parse()
	if *loaded {
		if err := loadTest(*model, *python, strings.Split(*engines, ","), *perClient, *hostile); err != nil {
			fmt.Fprintln(os.Stderr, "serving:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(*model, *python, *rounds, max(1, *starts), *cancels); err != nil {
		fmt.Fprintln(os.Stderr, "serving:", err)
		os.Exit(1)
	}
}

// side is one way to serve a model.
type side interface {
	name() string
	// start starts it and returns when the first token of a prompt is there.
	start(ctx context.Context, prompt string) error
	// stream generates n tokens and returns the time to the first and to the last.
	stream(ctx context.Context, prompt string, n int) (first, all time.Duration, err error)
	// whole generates n tokens in one answer; ending ctx ends the call.
	whole(ctx context.Context, prompt string, n int) error
	pid() int
	stop()
}

var serial int

// prompt is a new one every time, so that no cache of prompts has a part in what is measured.
func prompt() string {
	serial++
	return fmt.Sprintf("%d. Where can I find the %dth one, please?", serial*7919%9973, serial)
}

func run(model, python string, rounds, starts int, cancels bool) error {
	model, cleanup, err := endless(model)
	if err != nil {
		return err
	}
	defer cleanup()
	ctx := context.Background()
	inside, err := startInprocess(python, model)
	if err != nil {
		return err
	}
	defer inside.stop()
	sides := []side{&bridgeSide{model: model, python: python}, &httpSide{model: model, python: python}}
	table := &table{}
	for round := range starts {
		for _, s := range sides {
			begin := time.Now()
			if err := s.start(ctx, prompt()); err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
			table.add("start to first token, ms", s.name(), time.Since(begin).Seconds()*1e3)
			if round < starts-1 {
				s.stop()
			} else {
				defer s.stop()
			}
		}
	}
	for round := range rounds + 1 {
		keep := round > 0 // the first round warms up
		const tokens = 200
		r, err := inside.run([]string{prompt()}, tokens)
		if err != nil {
			return err
		}
		if keep {
			table.add("time to first token, ms", inside.name(), r.First*1e3)
			table.add("ms per token", inside.name(), (r.All-r.First)*1e3/(tokens-1))
		}
		for _, s := range sides {
			first, all, err := s.stream(ctx, prompt(), tokens)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
			if keep {
				table.add("time to first token, ms", s.name(), first.Seconds()*1e3)
				table.add("ms per token", s.name(), (all-first).Seconds()*1e3/(tokens-1))
			}
		}
		for _, clients := range []int{1, 8, 32} {
			const each, tokens = 3, 40
			label := fmt.Sprintf("requests/s, %d clients", clients)
			var prompts []string
			for range clients {
				prompts = append(prompts, prompt())
			}
			r, err := inside.run(prompts, tokens)
			if err != nil {
				return err
			}
			if keep {
				table.add(label, inside.name(), float64(clients)/r.All)
			}
			for _, s := range sides {
				rate, err := load(ctx, s, clients, each, tokens)
				if err != nil {
					return fmt.Errorf("%s, %d clients: %w", s.name(), clients, err)
				}
				if keep {
					table.add(label, s.name(), rate)
				}
			}
		}
		for _, s := range sides {
			if !cancels {
				break
			}
			took, err := cancelLatency(ctx, s)
			if err != nil {
				return fmt.Errorf("%s, cancel: %w", s.name(), err)
			}
			if keep {
				table.add("work after a cancel, not streamed, ms", s.name(), took.Seconds()*1e3)
			}
		}
	}
	table.print([]string{inside.name(), sides[0].name(), sides[1].name()})
	in, bridge, server := table.median("ms per token", inside.name()), table.median("ms per token", sides[0].name()), table.median("ms per token", sides[1].name())
	fmt.Printf("\noverhead per token over mlx-lm in its own process: bridge %.3f ms, mlx_lm.server %.3f ms\n", bridge-in, server-in)
	return nil
}

// load has so many clients send requests one after the other and returns requests per second.
func load(ctx context.Context, s side, clients, each, tokens int) (float64, error) {
	var group sync.WaitGroup
	errs := make(chan error, clients)
	prompts := make(chan string, clients*each)
	for range clients * each {
		prompts <- prompt()
	}
	close(prompts)
	begin := time.Now()
	for range clients {
		group.Go(func() {
			for p := range prompts {
				if _, _, err := s.stream(ctx, p, tokens); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(clients*each) / time.Since(begin).Seconds(), nil
	}
}

// cancelLatency cancels a long request that is not streamed and returns how long the serving process goes
// on computing.
func cancelLatency(ctx context.Context, s side) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.whole(ctx, prompt(), 1500) }()
	time.Sleep(500 * time.Millisecond)
	cancel()
	at := time.Now()
	if err := <-done; err == nil {
		return 0, fmt.Errorf("the request was over before it was cancelled")
	}
	// Idle is less than a fifth of a core over 50 ms; the end of work is where that began.
	for {
		before, begin := cpuTime(s.pid()), time.Now()
		time.Sleep(50 * time.Millisecond)
		if used := cpuTime(s.pid()) - before; used < 10*time.Millisecond {
			return begin.Sub(at), nil
		}
		if time.Since(at) > time.Minute {
			return 0, fmt.Errorf("the process does not come to rest")
		}
	}
}

// endless is a copy of a model that has no end token, so that every side makes all tokens it is asked for.
func endless(model string) (dir string, cleanup func(), err error) {
	if dir, err = os.MkdirTemp("", "serving"); err != nil {
		return "", nil, err
	}
	cleanup = func() { _ = os.RemoveAll(dir) }
	if err := os.CopyFS(dir, os.DirFS(model)); err != nil {
		cleanup()
		return "", nil, err
	}
	for _, name := range []string{"config.json", "generation_config.json", "tokenizer_config.json"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var config map[string]any
		if err = json.Unmarshal(data, &config); err == nil {
			config["eos_token_id"], config["eos_token"] = 0, "<pad>" // a trained model never makes it, a random one hardly ever
			if data, err = json.Marshal(config); err == nil {
				err = os.WriteFile(path, data, 0o644)
			}
		}
		if err != nil {
			cleanup()
			return "", nil, err
		}
	}
	return dir, cleanup, nil
}

// table collects figures by row and side.
type table struct {
	rows   []string
	values map[string][]float64
}

func (t *table) add(row, side string, value float64) {
	if t.values == nil {
		t.values = map[string][]float64{}
	}
	if !slices.Contains(t.rows, row) {
		t.rows = append(t.rows, row)
	}
	t.values[row+side] = append(t.values[row+side], value)
}

func (t *table) median(row, side string) float64 {
	v := slices.Sorted(slices.Values(t.values[row+side]))
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

func (t *table) print(sides []string) {
	fmt.Print("| |")
	for _, s := range sides {
		fmt.Printf(" %s |", s)
	}
	fmt.Printf(" %s / %s |\n|---|", sides[2], sides[1])
	for range len(sides) + 1 {
		fmt.Print("---|")
	}
	fmt.Println()
	for _, row := range t.rows {
		fmt.Printf("| %s |", row)
		for _, s := range sides {
			if v := t.median(row, s); v != 0 {
				fmt.Printf(" %.2f |", v)
			} else {
				fmt.Print(" |")
			}
		}
		fmt.Printf(" %.2f |\n", t.median(row, sides[2])/t.median(row, sides[1]))
	}
}

// bridgeSide is this project.
type bridgeSide struct {
	model, python string
	m             mlx.TextModel
	workerPID     int
}

func (b *bridgeSide) name() string { return "bridge" }

func (b *bridgeSide) start(ctx context.Context, prompt string) (err error) {
	before := children()
	if b.m, err = mlx.LoadModelContext(ctx, b.model, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(b.python))); err != nil {
		return err
	}
	for pid := range children() {
		if !before[pid] {
			b.workerPID = pid
		}
	}
	_, _, err = b.stream(ctx, prompt, 1)
	return err
}

func (b *bridgeSide) stream(ctx context.Context, prompt string, n int) (first, all time.Duration, err error) {
	begin, count := time.Now(), 0
	for _, err := range b.m.Generate(ctx, prompt, mlx.WithMaxTokens(n)) {
		if err != nil {
			return 0, 0, err
		}
		if count++; count == 1 {
			first = time.Since(begin)
		}
	}
	if count != n {
		return 0, 0, fmt.Errorf("%d tokens, want %d", count, n)
	}
	return first, time.Since(begin), nil
}

func (b *bridgeSide) whole(ctx context.Context, prompt string, n int) error {
	_, err := mlx.Collect(b.m.Generate(ctx, prompt, mlx.WithMaxTokens(n)))
	return err
}

func (b *bridgeSide) pid() int { return b.workerPID }
func (b *bridgeSide) stop()    { _ = b.m.Close() }
