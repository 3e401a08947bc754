package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
)

// modelFlags are the flags of every command that loads a model.
type modelFlags struct {
	path    string
	engine  string
	python  string
	workers int
	trust   bool
	quiet   bool
}

func (f *modelFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.path, "model", "m", "", "model folder (required)")
	flags.StringVarP(&f.engine, "engine", "e", "auto", "auto, native or python")
	flags.StringVar(&f.python, "python", "", "Python interpreter with mlx-lm (python engine)")
	flags.IntVar(&f.workers, "workers", 0, "worker processes (python engine)")
	flags.BoolVar(&f.trust, "trust-remote-code", false, "let Python code in the model folder run (python engine)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing on stderr but errors")
	_ = cmd.MarkFlagRequired("model")
}

// load loads the model and says on stderr which engine runs it, and why.
func (f *modelFlags) load(ctx context.Context, stderr io.Writer) (mlx.TextModel, error) {
	options := []mlx.LoadOption{mlx.WithEngine(mlx.Engine(f.engine))}
	if f.python != "" {
		options = append(options, mlx.WithPython(f.python))
	}
	if f.workers != 0 {
		options = append(options, mlx.WithWorkers(f.workers))
	}
	if f.trust {
		options = append(options, mlx.WithTrustRemoteCode())
	}
	start := time.Now()
	m, err := mlx.LoadModelContext(ctx, f.path, options...)
	if err != nil {
		return nil, err
	}
	info := m.Info()
	f.say(stderr, "%s engine on %s (%s), %s, %.1f M parameters, loaded in %.2f s",
		info.Engine, info.Device, info.Reason, info.Architecture, float64(info.Parameters)/1e6, time.Since(start).Seconds())
	return m, nil
}

func (f *modelFlags) say(stderr io.Writer, format string, args ...any) {
	if !f.quiet {
		fmt.Fprintf(stderr, format+"\n", args...)
	}
}
