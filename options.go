package mlx

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// Engine names an engine.
type Engine string

// Engines.
const (
	EngineAuto   Engine = "auto"   // native where the architecture is supported, else python
	EngineNative Engine = "native" // in this process
	EnginePython Engine = "python" // mlx-lm workers
)

// LoadOption changes how a model is loaded.
type LoadOption struct{ apply func(*loadOptions) }

type loadOptions struct {
	engine     Engine
	pythonOnly []string // names of the options given that only the python engine has
	python     string
	workers    int
	trust      bool
}

// WithEngine chooses the engine; the default is EngineAuto.
func WithEngine(e Engine) LoadOption { return LoadOption{func(o *loadOptions) { o.engine = e }} }

// WithPython names the Python interpreter of the python engine's workers. Without it the environment
// variable GO_MLX_PYTHON, a .venv in or above the working directory or beside the program, and python3
// are tried in turn.
func WithPython(path string) LoadOption {
	return pythonOption("WithPython", func(o *loadOptions) { o.python = path })
}

// WithWorkers sets how many worker processes serve the model; the default is 1. Each holds the weights
// once.
func WithWorkers(n int) LoadOption {
	return pythonOption("WithWorkers", func(o *loadOptions) { o.workers = n })
}

// WithTrustRemoteCode lets Python code in the model folder run. It is off by default: such code can do
// anything that this program can.
func WithTrustRemoteCode() LoadOption {
	return pythonOption("WithTrustRemoteCode", func(o *loadOptions) { o.trust = true })
}

func pythonOption(name string, apply func(*loadOptions)) LoadOption {
	return LoadOption{func(o *loadOptions) {
		o.pythonOnly = append(o.pythonOnly, name)
		apply(o)
	}}
}

// GenerateOption changes one generation. Options are checked when the stream starts; a bad value is
// the stream's error, an *OptionError.
type GenerateOption struct {
	apply func(*engine.GenerateOptions)
}

func generateOptions(options []GenerateOption) engine.GenerateOptions {
	o := engine.DefaultGenerateOptions()
	for _, option := range options {
		option.apply(&o)
	}
	return o
}

// WithMaxTokens limits the number of generated tokens; the default is 256. The model's context length
// limits it further.
func WithMaxTokens(n int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.MaxTokens = n }}
}

// WithTemperature divides the log-probabilities before a token is drawn. The default, 0, always takes
// the most likely token.
func WithTemperature(t float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Temperature = t }}
}

// WithTopK draws among the k most likely tokens; 0, the default, draws among all.
func WithTopK(k int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.TopK = k }}
}

// WithTopP draws among the most likely tokens that together have probability p; the default is 1.
func WithTopP(p float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.TopP = p }}
}

// WithMinP drops tokens that are less likely than p times the most likely one; the default is 0.
func WithMinP(p float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.MinP = p }}
}

// WithRepetitionPenalty divides positive and multiplies negative logits of recent tokens by p; the
// default, 1, changes nothing.
func WithRepetitionPenalty(p float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.RepetitionPenalty = p }}
}

// WithRepetitionContext sets how many recent tokens, prompt included, the penalty looks at; the default
// is 20.
func WithRepetitionContext(n int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.RepetitionContext = n }}
}

// WithSeed fixes the random draws: the same request gives the same tokens, alone or in company.
func WithSeed(seed uint64) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Seed, o.HasSeed = seed, true }}
}

// WithStop ends the stream before any of these strings; they are not part of the text.
func WithStop(stop ...string) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Stop = slices.Clone(stop) }}
}

// WithStopTokens ends the stream at any of these tokens, as at the model's own end tokens.
func WithStopTokens(ids ...int32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.StopTokens = slices.Clone(ids) }}
}

// WithIgnoreEOS goes on behind the model's own end tokens, up to the token limit: for benchmarks and
// comparisons.
func WithIgnoreEOS() GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.IgnoreEOS = true }}
}

// WithLogProbs reports each token's log-probability.
func WithLogProbs() GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.LogProbs = true }}
}

// WithTopLogProbs reports the n most likely tokens at each place too, at most 100.
func WithTopLogProbs(n int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.LogProbs, o.TopLogProbs = true, n }}
}

// ClassifyOption changes one classification call.
type ClassifyOption struct {
	apply func(*engine.ClassifyOptions)
}

// DefaultLabelPrompt is the prompt of Classify. {labels} becomes the labels, joined by commas, and
// {text} the text.
const DefaultLabelPrompt = engine.DefaultLabelPrompt

// WithLabelPrompt replaces DefaultLabelPrompt. The prompt must hold {text} exactly once; what stands
// before it is computed once for all texts, so put the instruction first.
func WithLabelPrompt(prompt string) ClassifyOption {
	return ClassifyOption{func(o *engine.ClassifyOptions) { o.Prompt = prompt }}
}
