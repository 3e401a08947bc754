package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

type probeRun struct {
	model                string
	python               string
	trust, json, noSmoke bool
}

func probeCommand() *cobra.Command {
	run := &probeRun{}
	cmd := &cobra.Command{
		Use:   "probe MODEL",
		Short: "Say what would run a model, and what a port of it would need",
		Long: `Read a model's config.json and the headers of its weight files, and say which file of mlx-lm serves it, which tensors are missing
or too many, how much memory it needs, whether the native engine has it, and if not, what a port would need. Then generate one
token in a worker of its own. The exit status is 1 if no engine can run the model.`,
		RunE: withModel(&run.model, func(cmd *cobra.Command) error {
			return run.run(cmd.Context(), run.model, cmd.OutOrStdout())
		}),
	}
	flags := cmd.Flags()
	addModelFlag(cmd, &run.model)
	flags.StringVar(&run.python, "python", "", "Python interpreter with mlx-lm")
	flags.BoolVar(&run.trust, "trust-remote-code", false, "let Python code in the model folder run")
	flags.BoolVar(&run.json, "json", false, "print one JSON object")
	flags.BoolVar(&run.noSmoke, "no-smoke", false, "do not load the model to generate a token")
	return cmd
}

// probeResult is what the command prints.
type probeResult struct {
	*bridge.Probe
	Native string `json:"native"` // "supported", or why not
	Smoke  string `json:"smoke"`  // "passed", "skipped", or the error
}

// errNoEngine is the error of a probe of a model that no engine can run.
var errNoEngine = errors.New("no engine runs this model")

func (r *probeRun) run(ctx context.Context, model string, stdout io.Writer) error {
	dir, err := mlx.Locate(model)
	if err != nil {
		return err
	}
	from, err := modelfiles.Find(dir)
	if err != nil {
		return err
	}
	if from.GGUF != "" {
		return r.probeGGUF(ctx, from, stdout)
	}
	tool, err := bridge.NewTool(r.python)
	if err != nil {
		return err
	}
	probe, err := tool.Probe(ctx, dir, r.trust)
	if err != nil {
		return err
	}
	result := probeResult{Probe: probe, Native: "supported", Smoke: "skipped"}
	if err := mlx.NativeSupport(dir); err != nil {
		result.Native = err.Error()
	}
	if !r.noSmoke && probe.Supported {
		result.Smoke = "passed"
		if err := r.smoke(ctx, dir, r.pythonOptions()...); err != nil {
			result.Smoke = err.Error()
		}
	}
	if r.json {
		err = printJSON(stdout, result)
	} else {
		err = result.print(stdout)
	}
	if err != nil {
		return err
	}
	if result.Native != "supported" && (!probe.Supported || result.Smoke != "passed" && !r.noSmoke) {
		return errNoEngine
	}
	return nil
}

// probeGGUF looks at a file that only the native engine reads.
func (r *probeRun) probeGGUF(ctx context.Context, from *modelfiles.Source, stdout io.Writer) error {
	h, err := from.Outline()
	if err != nil {
		return err
	}
	types, err := from.Types()
	if err != nil { // of a part, or of a kind that is not supported; the report says so
		types = h.Types()
	}
	result := probeResult{
		Probe:  &bridge.Probe{ModelType: h.Architecture(), Reason: "mlx-lm does not read GGUF files", WeightBytes: from.Bytes()},
		Native: "supported", Smoke: "skipped",
	}
	if err := mlx.NativeSupport(from.GGUF); err != nil {
		result.Native = err.Error()
	} else if !r.noSmoke {
		result.Smoke = "passed"
		if err := r.smoke(ctx, from.GGUF, mlx.WithEngine(mlx.EngineNative)); err != nil {
			result.Smoke = err.Error()
		}
	}
	if r.json {
		err = printJSON(stdout, result)
	} else {
		w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
		for _, row := range [][2]string{
			{"model type", result.ModelType}, {"native engine", result.Native}, {"mlx-lm", result.Reason}, {"smoke test", result.Smoke},
			{"matrices", types}, {"weights", fmt.Sprintf("%.2f MB", float64(result.WeightBytes)/1e6)},
		} {
			fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
		}
		err = w.Flush()
	}
	if err == nil && (result.Native != "supported" || result.Smoke != "passed" && !r.noSmoke) {
		return errNoEngine
	}
	return err
}

// pythonOptions are those of a worker.
func (r *probeRun) pythonOptions() []mlx.LoadOption {
	options := []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython)}
	if r.python != "" {
		options = append(options, mlx.WithPython(mlx.Interpreter(r.python)))
	}
	if r.trust {
		options = append(options, mlx.WithPython(mlx.TrustRemoteCode()))
	}
	return options
}

// smoke generates one token with a model that is closed again.
func (r *probeRun) smoke(ctx context.Context, dir string, options ...mlx.LoadOption) (err error) {
	m, err := mlx.LoadModelContext(ctx, dir, options...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	_, err = mlx.Collect(m.Generate(ctx, "Hello", mlx.WithMaxTokens(1), mlx.WithSampling(mlx.IgnoreEOS())))
	return err
}

func (r probeResult) print(stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("model type", "%s", r.ModelType)
	row("native engine", "%s", r.Native)
	if !r.Supported {
		row("mlx-lm", "cannot build it: %s", r.Reason)
		return w.Flush()
	}
	row("mlx-lm", "%s", r.File)
	row("smoke test", "%s", r.Smoke)
	row("layers", "%d", r.Layers)
	row("weights", "%.2f MB", float64(r.WeightBytes)/1e6)
	if r.KVBytesPerToken > 0 {
		row("KV cache", "%.2f MB for 1,000 tokens in full attention", float64(r.KVBytesPerToken)/1e3)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	problems := r.Problems()
	fmt.Fprintf(stdout, "\ntensors: %d do not fit\n", len(problems))
	const most = 20
	for i, problem := range problems {
		if i == most {
			fmt.Fprintf(stdout, "  and %d more\n", len(problems)-most)
			break
		}
		fmt.Fprintln(stdout, "  "+problem)
	}
	if r.Native == "supported" || r.Nearest == nil {
		return nil
	}
	fmt.Fprintln(stdout, "\na port to the native engine (docs/adding-a-model.md) needs")
	for _, line := range r.Checklist {
		fmt.Fprintln(stdout, "  "+line)
	}
	fmt.Fprintf(stdout, "\nnearest native architecture: %s in %s, %.0f %% of the modules of a layer in common\n",
		r.Nearest.Architecture, r.Nearest.File, 100*r.Nearest.Likeness)
	for _, line := range r.Nearest.More {
		fmt.Fprintln(stdout, "  + "+line)
	}
	for _, line := range r.Nearest.Less {
		fmt.Fprintln(stdout, "  - "+line)
	}
	return nil
}
