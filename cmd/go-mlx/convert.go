package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

type convertRun struct {
	model                       string
	out, adapter, dtype, python string
	bits, groupSize             int
	dequantize, trust, quiet    bool
}

func convertCommand() *cobra.Command {
	run := &convertRun{}
	cmd := &cobra.Command{
		Use:   "convert MODEL --out DIR",
		Short: "Quantise or dequantise a model, or merge a LoRA adapter into it",
		Long: `Write a model to another folder by way of mlx-lm: quantised with --bits, dequantised with --dequantize, in another type with
--dtype, or with the adapter of --adapter merged into its weights. A GGUF file becomes a folder with safetensors, which every program
for MLX reads; without further flags its quantised weights are written in bfloat16.`,
		RunE: withModel(&run.model, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), run.model, cmd.ErrOrStderr())
		}),
	}
	flags := cmd.Flags()
	addModelFlag(cmd, &run.model)
	flags.StringVar(&run.out, "out", "", "folder to write, which must not exist (required)")
	flags.IntVar(&run.bits, "bits", 0, "quantise: 2, 3, 4, 5, 6 or 8")
	flags.IntVar(&run.groupSize, "group-size", 64, "weights that share a scale, with --bits")
	flags.BoolVar(&run.dequantize, "dequantize", false, "write plain weights")
	flags.StringVar(&run.dtype, "dtype", "", "type of plain weights: float16, bfloat16 or float32")
	flags.StringVar(&run.adapter, "adapter", "", "folder of a LoRA adapter to merge")
	flags.StringVar(&run.python, "python", "", "Python interpreter with mlx-lm")
	flags.BoolVar(&run.trust, "trust-remote-code", false, "let Python code in the model folder run")
	flags.BoolVarP(&run.quiet, "quiet", "q", false, "say nothing on stderr but errors")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// arguments are those of mlx-lm's command.
func (r *convertRun) arguments(model string) ([]string, error) {
	if r.adapter != "" {
		if r.bits != 0 || r.dtype != "" {
			return nil, errors.New("--adapter goes with --dequantize only: merge first, then convert the result")
		}
		args := []string{"fuse", "--model", model, "--adapter-path", r.adapter, "--save-path", r.out}
		if r.dequantize {
			args = append(args, "--dequantize")
		}
		return args, nil
	}
	args := []string{"convert", "--hf-path", model, "--mlx-path", r.out}
	switch {
	case r.bits != 0 && r.dequantize:
		return nil, errors.New("--bits and --dequantize exclude each other")
	case r.bits != 0:
		args = append(args, "--quantize", "--q-bits", strconv.Itoa(r.bits), "--q-group-size", strconv.Itoa(r.groupSize))
	case r.dequantize:
		args = append(args, "--dequantize")
	case r.dtype == "":
		return nil, errors.New("nothing to do: give --bits, --dequantize, --dtype or --adapter")
	}
	if r.dtype != "" {
		args = append(args, "--dtype", r.dtype)
	}
	if r.trust {
		args = append(args, "--trust-remote-code")
	}
	return args, nil
}

func (r *convertRun) run(ctx context.Context, model string, stderr io.Writer) error {
	if _, err := os.Stat(r.out); err == nil {
		return fmt.Errorf("%s exists already", r.out)
	}
	model, err := mlx.Locate(model) // or mlx-lm would take what does not exist for a name on the hub
	if err != nil {
		return err
	}
	from, err := modelfiles.Find(model)
	if err != nil {
		return err
	}
	if from.GGUF != "" {
		if r.bits == 0 && r.dtype == "" && r.adapter == "" {
			return from.Export(r.out)
		}
		temp, err := os.MkdirTemp("", "go-mlx-convert-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temp)
		model = filepath.Join(temp, "model")
		if err := from.Export(model); err != nil {
			return err
		}
	}
	args, err := r.arguments(model)
	if err != nil {
		return usageError{err}
	}
	tool, err := bridge.NewTool(r.python)
	if err != nil {
		return err
	}
	if !r.quiet {
		tool.Stderr = stderr
	}
	if _, err := tool.Run(ctx, append([]string{"-m", "mlx_lm"}, args...)...); err != nil {
		return errors.Join(err, os.RemoveAll(r.out)) // nobody can use half a model
	}
	return nil
}
