package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"forge.lthn.ai/core/go-mlx/bridge"
)

// training is what compareTraining measures: LoRAs of rank 8 in all blocks.
type training struct {
	cli, model, data        string
	iterations, warm, batch int  // the first iterations, in which memory is taken and shapes are traced, do not count
	whole                   bool // the loss is of whole texts, not of answers only
	exact                   bool // MLX's own ops in the native engine, too
	checkpoints             bool
}

// iterations is what a run measured of each, and the most memory that its process held.
type iterations struct {
	Seconds, Tokens []float64
	Peak            int64
}

// compareTraining runs each way in turn, as a process of its own, and prints a row for each: medians of all rounds.
func compareTraining(ctx context.Context, t training, rounds int) error {
	tool, err := bridge.NewTool("")
	if err != nil {
		return err
	}
	type way struct {
		name string
		run  func() (iterations, error)
	}
	ways := []way{{"native", func() (iterations, error) { return t.native(ctx, false) }}}
	if t.exact {
		ways = append(ways, way{"native, exact", func() (iterations, error) { return t.native(ctx, true) }})
	}
	ways = append(ways, way{"mlx-lm's tuner", func() (out iterations, err error) {
		text, err := tool.Run(ctx, "tests/compare/train.py", t.model, t.data, strconv.Itoa(t.iterations), strconv.Itoa(t.batch), strconv.FormatBool(!t.whole), strconv.FormatBool(t.checkpoints))
		if err != nil {
			return out, err
		}
		return out, json.Unmarshal(text, &out)
	}})
	seconds, rates, peaks := make([][]float64, len(ways)), make([][]float64, len(ways)), make([]int64, len(ways))
	for range rounds {
		for i, w := range ways {
			got, err := w.run()
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if len(got.Seconds) != t.iterations {
				return fmt.Errorf("%s: %d iterations instead of %d", w.name, len(got.Seconds), t.iterations)
			}
			for k := t.warm; k < t.iterations; k++ {
				seconds[i], rates[i] = append(seconds[i], got.Seconds[k]), append(rates[i], got.Tokens[k]/got.Seconds[k])
			}
			peaks[i] = max(peaks[i], got.Peak)
		}
	}
	fmt.Printf("| LoRA, batches of %d | an iteration | tokens/s | peak of memory | native is so many times as fast |\n|---|---|---|---|---|\n", t.batch)
	for i, w := range ways {
		fmt.Printf("| %s | %.3f s | %.0f | %.2f GB | %.1f |\n", w.name, median(seconds[i]), median(rates[i]), float64(peaks[i])/1e9, median(seconds[i])/median(seconds[0]))
	}
	return nil
}

// native runs the command line.
func (t training) native(ctx context.Context, exact bool) (out iterations, err error) {
	dir, err := os.MkdirTemp("", "go-mlx-train-*")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(dir)
	args := []string{
		"train", t.model, "--quiet", "--data", t.data, "--out", dir, "--iters", strconv.Itoa(t.iterations), "--batch-size", strconv.Itoa(t.batch), "--num-layers", "0", "--eval-every", "0", "--save-every", "0",
		"--mask-prompt=" + strconv.FormatBool(!t.whole), "--exact=" + strconv.FormatBool(exact), "--grad-checkpoint=" + strconv.FormatBool(t.checkpoints),
	}
	cmd := exec.CommandContext(ctx, t.cli, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return out, err
	}
	out.Peak = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	if runtime.GOOS != "darwin" {
		out.Peak *= 1024
	}
	log, err := os.ReadFile(filepath.Join(dir, "training_log.jsonl"))
	if err != nil {
		return out, err
	}
	lines, before := bufio.NewScanner(bytes.NewReader(log)), struct{ Seconds, Tokens float64 }{}
	for lines.Scan() {
		now := before
		if err := json.Unmarshal(lines.Bytes(), &now); err != nil {
			return out, err
		}
		out.Seconds, out.Tokens = append(out.Seconds, now.Seconds-before.Seconds), append(out.Tokens, now.Tokens-before.Tokens)
		before = now
	}
	return out, lines.Err()
}
