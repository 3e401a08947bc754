package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/hub"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/server"
)

// keysVariable may hold API keys, separated by commas: a command line can be read by everyone on the machine.
const keysVariable = "GO_MLX_API_KEYS"

// defaultPromptCache is how many MiB of KV each model keeps for later prompts.
const defaultPromptCache = 512

type serveRun struct {
	loadFlags
	models, keys, origins, hosts []string
	modelsDir, keyFile           string
	host                         string
	port                         int
	ttl, drain                   time.Duration
	requestTimeout, writeTimeout time.Duration
	maxBody, store               int64 // MiB
	maxRequests, maxTokens       int
	preload, budgeted            bool // budgeted: a budget was given, which may be none
	noPage, strict               bool
	controlTokens                bool
	aliases                      []string
	defaultModel, basePath       string
	readyDelay                   time.Duration
	logFormat, logLevel          string
	otlp                         string
}

func serveCommand() *cobra.Command {
	run := &serveRun{}
	cmd := &cobra.Command{
		Use:   "serve [NAME=]MODEL[,KEY=VALUE...] ...",
		Short: "Serve models over HTTP, with a chat page",
		Long: `Serve models over HTTP: the chat, completions, embeddings and responses APIs of OpenAI, Anthropic's messages API,
Ollama's API, /v1/classify, and a chat page at http://localhost:8090/.

A model is a folder, a .gguf file or a name ORG/NAME that was pulled, with a name for requests; without one that of the folder, of the
file or on the hub is taken. KEY=VALUE sets for one model what the flags set for all: engine, adapter, draft, workers, batch. A model,
draft model or adapter that is not there is an error at the start.

A model is loaded when it is first asked for. API keys are read from --api-key-file (one a line), from the environment
variable ` + keysVariable + ` (separated by commas) and from --api-key.`,
		Example: `  go-mlx serve --model /models/gemma-3-1b
  go-mlx serve --model Qwen/Qwen3-0.6B --model SmolLM2-135M-Instruct.Q4_1.gguf
  go-mlx serve --model small=/models/qwen3,engine=python,workers=2 \
    --model big=/models/llama --ttl 10m
  go-mlx serve --model qwen=/models/qwen3 --alias 'gpt-*=qwen'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			run.models = append(run.models, args...) // as with every other command
			if len(run.models) == 0 && run.modelsDir == "" {
				return usageError{errors.New("name models, as MODEL or with --model, or a folder of them with --models-dir")}
			}
			run.budgeted = cmd.Flags().Changed("memory-budget")
			return run.run(cmd.Context(), cmd.Root().Version, cmd.ErrOrStderr())
		},
	}
	run.add(cmd)
	flags := cmd.Flags()
	// Agents send the same long prompt with every turn.
	run.promptCache = defaultPromptCache
	flags.Lookup("prompt-cache").DefValue = fmt.Sprint(defaultPromptCache)
	flags.StringArrayVarP(&run.models, "model", "m", nil, "model to serve; may be given again")
	flags.StringVar(&run.modelsDir, "models-dir", "", "serve every model in this folder: folders, .gguf files, LM Studio's ORG/NAME/FILE.gguf")
	flags.StringVar(&run.host, "host", "127.0.0.1", "address to listen on; others than loopback need API keys")
	flags.IntVarP(&run.port, "port", "p", 8090, "port to listen on; 0 for any free one")
	flags.StringArrayVar(&run.keys, "api-key", nil, "API key that clients must give; may be given again")
	flags.StringVar(&run.keyFile, "api-key-file", "", "file of API keys, one a line")
	flags.StringArrayVar(&run.origins, "cors-origin", nil, "web origin whose pages may ask, e.g. https://example.com; may be given again")
	flags.StringArrayVar(&run.hosts, "allowed-host", nil, "name in the Host header to answer to, besides localhost; may be given again")
	flags.DurationVar(&run.ttl, "ttl", 0, "close a model that had no requests for so long; 0 keeps it")
	flags.Lookup("memory-budget").Usage = "MiB that all models may hold together, with prompt caches and KV; 0 for no limit (default of several models: three quarters of the memory)"
	flags.BoolVar(&run.preload, "preload", false, "load all models before the first request")
	flags.IntVar(&run.maxRequests, "max-requests", 256, "requests at once; one more gets 429")
	flags.Int64Var(&run.maxBody, "max-body", 8, "MiB of a request")
	flags.IntVar(&run.maxTokens, "max-tokens", 2048, "tokens of an answer whose request sets no limit")
	flags.Int64Var(&run.store, "store", 64, "MiB of conversations kept for the responses API")
	flags.DurationVar(&run.requestTimeout, "request-timeout", 10*time.Minute, "time for a whole request; 0 for no limit")
	flags.DurationVar(&run.writeTimeout, "write-timeout", time.Minute, "time for a client to take what was sent; 0 for no limit")
	flags.DurationVar(&run.drain, "drain", 30*time.Second, "time for requests under way when the server is told to end")
	flags.StringArrayVar(&run.aliases, "alias", nil, "PATTERN=NAME: another name for a model, which may hold * and ?; may be given again")
	flags.StringVar(&run.defaultModel, "default-model", "", "model of requests that name none; without it the only one")
	flags.BoolVar(&run.strict, "strict", false, "refuse fields that would have no effect, instead of naming them in the answer's header")
	flags.BoolVar(&run.controlTokens, "control-tokens", false, "text in messages and tools that spells a control token, such as <end_of_turn>, becomes that token; without the flag it stays text")
	flags.StringVar(&run.basePath, "base-path", "", "serve below this path, e.g. /lm")
	flags.DurationVar(&run.readyDelay, "ready-delay", 2*time.Second, "how long /readyz says no before the server drains")
	flags.BoolVar(&run.noPage, "no-page", false, "no chat page")
	flags.StringVar(&run.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&run.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&run.otlp, "otlp", "", "send OpenTelemetry traces to this OTLP/HTTP address, e.g. http://localhost:4318")
	return cmd
}

func (r *serveRun) run(ctx context.Context, version string, stderr io.Writer) (err error) {
	log, err := r.logger(stderr)
	if err != nil {
		return err
	}
	keys, err := r.apiKeys()
	if err != nil {
		return err
	}
	if ip := net.ParseIP(r.host); r.host != "localhost" && (ip == nil || !ip.IsLoopback()) && len(keys) == 0 {
		return usageError{fmt.Errorf("--host %s lets others ask: give API keys (--api-key-file or %s)", r.host, keysVariable)}
	}
	if r.python != "" { // an option would choose the python engine for every model
		if err := os.Setenv(bridge.PythonVariable, r.python); err != nil {
			return err
		}
	}
	models, err := r.hosted(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, models.Close()) }()
	aliases, err := r.readAliases(models)
	if err != nil {
		return err
	}
	config := server.Config{
		Aliases: aliases, DefaultModel: r.defaultModel, Strict: r.strict, ControlTokens: r.controlTokens, BasePath: r.basePath, ReadyDelay: r.readyDelay,
		Models: models, Log: log, APIKeys: keys, CORSOrigins: r.origins, AllowedHosts: r.hosts, MaxBody: r.maxBody << 20,
		MaxRequests: r.maxRequests, MaxTokens: r.maxTokens, RequestTimeout: r.requestTimeout, WriteTimeout: r.writeTimeout,
		StoreBytes: r.store << 20, Page: !r.noPage, Version: version,
	}
	if r.otlp != "" {
		provider, err := newTracer(ctx, r.otlp, version)
		if err != nil {
			return fmt.Errorf("--otlp: %w", err)
		}
		defer func() {
			patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := provider.Shutdown(patience); err != nil {
				log.Warn("traces were lost", "error", err)
			}
		}()
		config.Tracer = provider
	}
	s, err := server.New(config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(r.host, fmt.Sprint(r.port)))
	if err != nil {
		return fmt.Errorf("%w; --port chooses another port", err)
	}
	for _, name := range models.Names() {
		log.Info("model", "name", name)
	}
	log.Info("serving", "address", "http://"+listener.Addr().String()+s.Root())
	if !r.preload {
		return s.Serve(ctx, listener, r.drain)
	}
	return serveWarming(ctx, s, listener, r.drain)
}

// serveWarming loads all models while the server already says that it is alive.
func serveWarming(ctx context.Context, s *server.Server, listener net.Listener, drain time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	warm := s.Warm(ctx)
	go func() { served <- s.Serve(ctx, listener, drain) }()
	err := warm()
	if err != nil && ctx.Err() == nil {
		cancel()
		return errors.Join(err, <-served)
	}
	return <-served
}

// readAliases reads PATTERN=NAME.
func (r *serveRun) readAliases(models *mlx.Host) (out []server.Alias, err error) {
	known := func(flag, name string) error {
		if !slices.Contains(models.Names(), name) {
			return usageError{fmt.Errorf("%s: there is no model %q; there are %s", flag, name, strings.Join(models.Names(), ", "))}
		}
		return nil
	}
	for _, given := range r.aliases {
		pattern, name, ok := strings.Cut(given, "=")
		if _, err := path.Match(pattern, ""); !ok || pattern == "" || err != nil {
			return nil, usageError{fmt.Errorf("--alias %s: write it as PATTERN=NAME", given)}
		}
		if err := known("--alias "+given, name); err != nil {
			return nil, err
		}
		out = append(out, server.Alias{Pattern: pattern, Name: name})
	}
	if r.defaultModel != "" {
		return out, known("--default-model", r.defaultModel)
	}
	return out, nil
}

func (r *serveRun) logger(stderr io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.logLevel)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level: %w", err)}
	}
	if r.quiet {
		level = slog.LevelError
	}
	options := &slog.HandlerOptions{Level: level}
	switch r.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(stderr, options)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %q; there are text and json", r.logFormat)}
}

// apiKeys reads the keys of the file, the environment and the flags.
func (r *serveRun) apiKeys() ([]string, error) {
	all := append(strings.Split(os.Getenv(keysVariable), ","), r.keys...)
	if r.keyFile != "" {
		lines, err := readLines(r.keyFile)
		if err != nil {
			return nil, err
		}
		if len(lines) == 0 {
			return nil, fmt.Errorf("%s holds no key", r.keyFile)
		}
		all = append(all, lines...)
	}
	var keys []string
	for _, key := range all {
		if key = strings.TrimSpace(key); key != "" {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// hosted reads the models of the command line.
func (r *serveRun) hosted(log *slog.Logger) (*mlx.Host, error) {
	var models []mlx.HostedModel
	if r.modelsDir != "" {
		r.modelsDir = hub.AtHome(r.modelsDir)
		found, err := modelfiles.Within(r.modelsDir)
		if err != nil {
			return nil, usageError{fmt.Errorf("--models-dir: %w", err)}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("no folder in %s has a config.json, and there is no .gguf file", r.modelsDir)
		}
		for _, path := range found {
			name, err := filepath.Rel(r.modelsDir, path)
			if err != nil {
				return nil, fmt.Errorf("--models-dir: %w", err)
			}
			name = filepath.ToSlash(filepath.Join(filepath.Dir(name), defaultName(path)))
			m, err := r.settled(name, path, "") // a name of a folder may hold anything
			if err != nil {
				return nil, fmt.Errorf("--models-dir: %w", err)
			}
			// One of many that does not load is no reason to serve none.
			if err := mlx.Verify(m.Path, m.Options...); err != nil {
				log.Warn("this model will not load", "name", m.Name, "error", err)
			}
			models = append(models, m)
		}
	}
	for _, spec := range r.models {
		m, err := r.model(spec)
		if err != nil {
			return nil, usageError{fmt.Errorf("--model %s: %w", spec, err)}
		}
		models = append(models, m)
	}
	budget := r.budget << 20
	if !r.budgeted && len(models) > 1 { // clients may ask for one after the other until the memory is full
		if budget = modelMemory(context.Background()) / 4 * 3; budget > 0 {
			log.Info("memory budget of all models", "mib", budget>>20, "change", "--memory-budget")
		}
	}
	options := mlx.HostOptions{IdleTTL: r.ttl, Budget: budget, Logger: log, Events: func(name string, e mlx.Event) {
		if e.Kind == mlx.EventRestart {
			log.Warn("a worker ended and is replaced", "model", name, "error", e.Err)
		}
	}}
	return mlx.NewHost(options, models...)
}

// model reads [NAME=]MODEL[,KEY=VALUE...] and looks whether its files are there.
func (r *serveRun) model(spec string) (mlx.HostedModel, error) {
	what, settings, _ := strings.Cut(spec, ",")
	name, model, named := strings.Cut(what, "=")
	if !named {
		name, model = "", what
	}
	if _, err := os.Stat(spec); err == nil { // a path that is there, whatever characters it holds
		name, model, settings = "", spec, ""
	}
	if name == "" {
		name = defaultName(model)
	}
	m, err := r.settled(name, model, settings)
	if err != nil {
		return m, err
	}
	return m, mlx.Verify(m.Path, m.Options...)
}

// defaultName is what a model is called in requests unless the user names it: the folder, the file without its ending, or the name on
// the hub.
func defaultName(model string) string {
	if _, err := os.Stat(model); err != nil {
		if _, ok := hub.Parse(model); ok {
			return model
		}
	}
	if strings.EqualFold(filepath.Ext(model), ".gguf") {
		return gguf.ModelName(model)
	}
	if abs, err := filepath.Abs(model); err == nil {
		return filepath.Base(abs)
	}
	return model
}

// settled is a model of the command line: its own settings override those for all models.
func (r *serveRun) settled(name, model, settings string) (mlx.HostedModel, error) {
	path, err := mlx.Locate(model)
	if err != nil {
		return mlx.HostedModel{}, err
	}
	own := r.loadFlags
	own.python = "" // named to all workers by the environment
	own.budget = 0  // of all models together
	for setting := range strings.SplitSeq(settings, ",") {
		if settings == "" {
			break
		}
		key, value, _ := strings.Cut(setting, "=")
		if err := own.set(key, value); err != nil {
			return mlx.HostedModel{}, err
		}
	}
	// A flag of one engine is not given to models of the other.
	switch mlx.Engine(own.engine) {
	case mlx.EngineNative:
		own.workers, own.trust, own.stall, own.online = 0, false, 0, false
	case mlx.EnginePython:
		own.exact = false
	}
	return mlx.HostedModel{Name: name, Path: path, Options: own.options()}, nil
}

// newTracer sends spans in batches to an OTLP collector.
func newTracer(ctx context.Context, address, version string) (*sdktrace.TracerProvider, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(address))
	if err != nil {
		return nil, err
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(
		resource.NewSchemaless(semconv.ServiceName("go-mlx"), semconv.ServiceVersion(version)))), nil
}
