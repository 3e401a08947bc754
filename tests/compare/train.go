package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
)

// compareTraining measures iterations of a LoRA run: all blocks, rank 8, answers only. Each round is a run of its own on
// either side; the first iterations of a run, in which shapes are traced, do not count.
func compareTraining(ctx context.Context, model, data string, rounds int) error {
	const iterations, warm, batch = 14, 4, 4
	tool, err := bridge.NewTool("")
	if err != nil {
		return err
	}
	fmt.Printf("| LoRA, batches of %d | native | mlx-lm's tuner | mlx-lm / native |\n|---|---|---|---|\n", batch)
	for _, checkpoint := range []bool{false, true} {
		var native, python []float64
		for range rounds {
			out, err := os.MkdirTemp("", "go-mlx-train-*")
			if err != nil {
				return err
			}
			defer os.RemoveAll(out)
			o := mlx.DefaultTrainOptions()
			o.Data, o.Out, o.Iterations, o.BatchSize, o.NumLayers, o.MaskPrompt, o.EvalEvery, o.SaveEvery = data, out, iterations, batch, 0, true, 0, 0
			o.Checkpoint = checkpoint
			last := 0.0
			o.Progress = func(p mlx.TrainProgress) {
				if p.Iteration > warm {
					native = append(native, p.Seconds-last)
				}
				last = p.Seconds
			}
			if _, err := mlx.Train(ctx, model, o); err != nil {
				return err
			}
			text, err := tool.Run(ctx, "tests/compare/train.py", model, data, strconv.Itoa(iterations), strconv.Itoa(batch), strconv.FormatBool(checkpoint))
			if err != nil {
				return err
			}
			var seconds []float64
			if err := json.Unmarshal(text, &seconds); err != nil {
				return err
			}
			python = append(python, seconds[warm:]...)
		}
		name := "iteration"
		if checkpoint {
			name += ", gradient checkpoints"
		}
		a, b := median(native), median(python)
		fmt.Printf("| %s | %.1f ms | %.1f ms | %.2f |\n", name, 1000*a, 1000*b, b/a)
	}
	return nil
}
