package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"forge.lthn.ai/core/go-mlx/bridge"
)

type convertRun struct {
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
--dtype, or with the adapter of --adapter merged into its weights.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run.run(cmd.Context(), args[0], cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
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
	args, err := r.arguments(model)
	if err != nil {
		return usageError{err}
	}
	if _, err := os.Stat(r.out); err == nil {
		return fmt.Errorf("%s exists already", r.out)
	}
	if _, err := os.Stat(model); err != nil {
		return err // mlx-lm would take it for a name on the hub
	}
	tool, err := bridge.NewTool(r.python)
	if err != nil {
		return err
	}
	if !r.quiet {
		tool.Stderr = stderr
	}
	if _, err := tool.Run(ctx, append([]string{"-m", "mlx_lm"}, args...)...); err != nil {
		return errors.Join(err, os.RemoveAll(r.out)) // half a model is of no use
	}
	return nil
}
