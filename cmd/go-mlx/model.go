package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
)

// loadFlags say how models are loaded.
type loadFlags struct {
	engine  string
	python  string
	workers int
	trust   bool
	quiet   bool

	batch               int
	promptCache, budget int64 // MiB
	adapter             string
	draft               string
	exact               bool
	threads             int
	stall               time.Duration
	online              bool
}

func (f *loadFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.engine, "engine", "e", "auto", "auto, native or python")
	flags.StringVar(&f.python, "python", "", "Python interpreter with mlx-lm (python engine)")
	flags.IntVar(&f.workers, "workers", 0, "worker processes (python engine)")
	flags.BoolVar(&f.trust, "trust-remote-code", false, "let Python code in the model folder run (python engine)")
	flags.IntVar(&f.batch, "batch", 0, "requests that are computed together")
	flags.Int64Var(&f.promptCache, "prompt-cache", 0, "MiB of KV kept for later prompts")
	flags.Int64Var(&f.budget, "memory-budget", 0, "MiB that the model may hold, with prompt cache and KV; 0 for no limit")
	flags.StringVar(&f.adapter, "adapter", "", "folder of a LoRA adapter")
	flags.StringVar(&f.draft, "draft", "", "folder of a draft model for speculative decoding")
	flags.BoolVar(&f.exact, "exact", false, "MLX's own kernels only, as mlx-lm uses them (native engine)")
	flags.IntVar(&f.threads, "threads", 0, "threads of the CPU kernels (native engine; 0: GO_MLX_THREADS, or all processors)")
	flags.DurationVar(&f.stall, "stall-timeout", 0, "when a worker without progress counts as hung (python engine)")
	flags.BoolVar(&f.online, "online", false, "let the worker's libraries use the network (python engine)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing on stderr but errors")
}

// set sets one of the flags that may differ between models.
func (f *loadFlags) set(key, value string) error {
	number := func(into *int) (err error) {
		if *into, err = strconv.Atoi(value); err != nil {
			return fmt.Errorf("%s=%s: %w", key, value, err)
		}
		return nil
	}
	switch key {
	case "engine":
		f.engine = value
	case "adapter":
		f.adapter = value
	case "draft":
		f.draft = value
	case "workers":
		return number(&f.workers)
	case "batch":
		return number(&f.batch)
	default:
		return fmt.Errorf("unknown setting %q; there are engine, adapter, draft, workers and batch", key)
	}
	return nil
}

func (f *loadFlags) options() []mlx.LoadOption {
	options := []mlx.LoadOption{mlx.WithEngine(mlx.Engine(f.engine))}
	given := func(set bool, option mlx.LoadOption) {
		if set {
			options = append(options, option)
		}
	}
	given(f.python != "", mlx.WithPython(mlx.Interpreter(f.python)))
	given(f.workers != 0, mlx.WithPython(mlx.Workers(f.workers)))
	given(f.trust, mlx.WithPython(mlx.TrustRemoteCode()))
	given(f.batch != 0, mlx.WithBatch(f.batch))
	given(f.promptCache != 0, mlx.WithPromptCache(f.promptCache<<20))
	given(f.budget != 0, mlx.WithMemoryBudget(f.budget<<20))
	given(f.adapter != "", mlx.WithAdapter(f.adapter))
	given(f.draft != "", mlx.WithDraftModel(f.draft))
	given(f.exact, mlx.WithNative(mlx.Exact()))
	given(f.threads != 0, mlx.WithNative(mlx.Threads(f.threads)))
	given(f.stall != 0, mlx.WithPython(mlx.StallTimeout(f.stall)))
	given(f.online, mlx.WithPython(mlx.Online()))
	return options
}

// modelFlags are the flags of commands that load one model.
type modelFlags struct {
	loadFlags
	path string
	bars *bars
}

func (f *modelFlags) add(cmd *cobra.Command) {
	f.loadFlags.add(cmd)
	addModelFlag(cmd, &f.path)
}

// addModelFlag adds --model; a command's first argument may be given in its place.
func addModelFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "model", "m", "", "model: a folder, a .gguf file or a name ORG/NAME; or the first argument")
}

// takeModel takes the model from the arguments where --model does not name it.
func takeModel(path *string, args []string) (rest []string, err error) {
	if *path != "" {
		return args, nil
	}
	if len(args) == 0 {
		return nil, usageError{errors.New("name a model, as MODEL or with --model: a folder, a .gguf file or ORG/NAME")}
	}
	*path = args[0]
	return args[1:], nil
}

// onlyModel is takeModel for commands without further arguments.
func onlyModel(path *string, args []string) error {
	rest, err := takeModel(path, args)
	if err == nil && len(rest) > 0 {
		err = usageError{fmt.Errorf("unknown argument %q after the model", rest[0])}
	}
	return err
}

// withModel is the RunE of a command whose only argument is the model.
func withModel(path *string, run func(*cobra.Command) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := onlyModel(path, args); err != nil {
			return err
		}
		return run(cmd)
	}
}

// load loads the model and says on stderr which engine runs it, and why.
func (f *modelFlags) load(ctx context.Context, stderr io.Writer) (mlx.TextModel, error) {
	f.bars = newBars(stderr, f.quiet)
	options := append(f.options(), mlx.WithEvents(f.bars.show))
	start := time.Now()
	m, err := mlx.LoadModelContext(ctx, f.path, options...)
	f.bars.clear()
	if err != nil {
		return nil, err
	}
	info := m.Info()
	f.say(stderr, "%s, %.1f M parameters, loaded in %.2f s\n%s engine on %s: %s",
		info.Architecture, float64(info.Parameters)/1e6, time.Since(start).Seconds(), info.Engine, info.Device, info.Reason)
	return m, nil
}

func (f *modelFlags) say(stderr io.Writer, format string, args ...any) {
	if !f.quiet {
		fmt.Fprintf(stderr, format+"\n", args...)
	}
}
