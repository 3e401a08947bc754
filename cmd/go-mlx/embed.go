package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
)

type embedRun struct {
	modelFlags
	promptName string
	dimensions int
}

func embedCommand() *cobra.Command {
	run := &embedRun{}
	cmd := &cobra.Command{
		Use:   "embed MODEL < TEXTS",
		Short: "Print a vector for each line of standard input",
		Long:  "Print a vector, as a JSON list, for each line of standard input that is not empty.",
		RunE: withModel(&run.path, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	run.add(cmd)
	cmd.Flags().StringVar(&run.promptName, "prompt-name", "", "put one of the model's own prompts before each text, e.g. query")
	cmd.Flags().IntVar(&run.dimensions, "dimensions", 0, "cut the vectors to so many values")
	return cmd
}

func (r *embedRun) run(ctx context.Context, in io.Reader, out, stderr io.Writer) error {
	m, err := r.load(ctx, stderr)
	if err != nil {
		return err
	}
	defer m.Close()
	options := []mlx.EmbedOption{mlx.WithPromptName(r.promptName)}
	if r.dimensions != 0 {
		options = append(options, mlx.WithDimensions(r.dimensions))
	}
	encoder := json.NewEncoder(out)
	start, count := time.Now(), 0
	if err := eachBatch(in, false, func(batch []line) error {
		return answer(ctx, batch, func(texts []string) ([][]float32, error) {
			return m.Embed(ctx, texts, options...)
		}, func(batch []line, vectors [][]float32) error {
			for _, v := range vectors {
				if err := encoder.Encode(v); err != nil {
					return err
				}
			}
			count += len(batch)
			return nil
		})
	}); err != nil {
		return err
	}
	r.say(stderr, "%s in %.2f s", counted(count, "text"), time.Since(start).Seconds())
	return nil
}
