package mlx

import (
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"time"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
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
	nativeOnly []string // likewise
	bridge     bridge.Options
	native     engine.NativeOptions
	shadow     *shadowOptions // nil without
	budget     int64          // bytes; 0 for no limit
	host       *Host
	memory     *admission.Memory // of a host or of the model's own budget; nil without
}

// WithEngine chooses the engine; the default is EngineAuto.
func WithEngine(e Engine) LoadOption { return LoadOption{func(o *loadOptions) { o.engine = e }} }

// WithPython names the Python interpreter of the python engine's workers. Without it the environment
// variable GO_MLX_PYTHON, a .venv beside the program or one folder above it, and python3 are tried in turn; never one that
// just happens to be in or above the working directory.
func WithPython(path string) LoadOption {
	return pythonOption("WithPython", func(o *loadOptions) { o.bridge.Python = path })
}

// WithWorkers sets how many worker processes may serve the model; the default is 1. Each holds the
// weights once.
func WithWorkers(n int) LoadOption {
	return pythonOption("WithWorkers", func(o *loadOptions) { o.bridge.Workers = n })
}

// WithTrustRemoteCode lets Python code in the model folder run. It is off by default: such code can do
// anything that this program can.
func WithTrustRemoteCode() LoadOption {
	return pythonOption("WithTrustRemoteCode", func(o *loadOptions) { o.bridge.TrustRemoteCode = true })
}

// WithMinWorkers sets how many of the workers are started with the model and kept. The default is all, or
// none if WithIdleTTL is given.
func WithMinWorkers(n int) LoadOption {
	return pythonOption("WithMinWorkers", func(o *loadOptions) { o.bridge.MinWorkers = n })
}

// WithIdleTTL ends workers beyond WithMinWorkers that had nothing to do for so long. The next request
// starts one again.
func WithIdleTTL(d time.Duration) LoadOption {
	return pythonOption("WithIdleTTL", func(o *loadOptions) { o.bridge.IdleTTL = d })
}

// WithBatch sets how many requests are computed together (in each worker of the python engine); the default is 32. With 1 they take
// turns, which is slower, but then a token's bits never depend on what else is computed.
func WithBatch(n int) LoadOption {
	return LoadOption{func(o *loadOptions) { o.bridge.Batch, o.native.Batch = n, n }}
}

// WithQueue sets how many requests may wait when all workers are full; the default is 1024. One more
// fails with ErrBusy.
func WithQueue(n int) LoadOption {
	return pythonOption("WithQueue", func(o *loadOptions) { o.bridge.Queue = n })
}

// WithPromptCache keeps the KV (in each worker of the python engine) of earlier requests, up to so many bytes, for requests
// that begin in the same way, as the turns of a chat do. It is off by default: where kernels round
// differently for other lengths, the last bits of a log-probability may depend on what was kept.
func WithPromptCache(bytes int64) LoadOption {
	return LoadOption{func(o *loadOptions) { o.bridge.PromptCache, o.native.PromptCache = bytes, bytes }}
}

// WithMemoryBudget sets how many bytes the model may hold: weights, draft and adapter once for each process that loads them,
// prompt caches, and KV. What would exceed it fails with ErrBudget. Native engine: before anything is allocated, and KV kept for later
// requests is given back first; the account is MLX's, which is that of the whole process. Python engine: a worker that would not
// fit beside the others is not started. For several models together see Host.
func WithMemoryBudget(bytes int64) LoadOption {
	return LoadOption{func(o *loadOptions) { o.budget, o.native.MemoryBudget = bytes, bytes }}
}

// WithHost makes a model that the caller loads and closes count in the budget of a host: the load, and further workers of the python
// engine, wait for memory like those of the host's own models, and others wait for what it holds. It is never closed for others.
// WithLoadEvents is told what it waits for.
func WithHost(h *Host) LoadOption { return LoadOption{func(o *loadOptions) { o.host = h }} }

// WithPackedWeights keeps the weights of a GGUF file packed also where plain ones are computed with much faster, which is on a CPU: less
// memory for more time. It does so if all matrices are of types that MLX has exactly (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, F16), as is done on
// GPUs anyway.
func WithPackedWeights() LoadOption {
	return nativeOption("WithPackedWeights", func(o *loadOptions) { o.native.Packed = true })
}

// WithThreads sets how many threads the native engine's CPU kernels use, in the whole process: all models share them. Without
// it they are as many as the environment variable GO_MLX_THREADS says, or as GOMAXPROCS.
func WithThreads(n int) LoadOption {
	return nativeOption("WithThreads", func(o *loadOptions) { o.native.Threads = n })
}

// WithExact keeps the native engine to MLX's own kernels, in the order in which mlx-lm uses them, so that on one device both
// compute the same bits. Without it kernels of this module compute where there are such, on CPUs and NVIDIA GPUs: many times
// as fast, and on CPUs nearer to the model in float32, but with sums in another order.
func WithExact() LoadOption {
	return nativeOption("WithExact", func(o *loadOptions) { o.native.Exact = true })
}

// WithStallTimeout sets how long a busy worker may make no progress before it counts as hung and is
// replaced; the default is two minutes. Long requests and slow loads make progress and are left alone.
func WithStallTimeout(d time.Duration) LoadOption {
	return pythonOption("WithStallTimeout", func(o *loadOptions) { o.bridge.StallTimeout = d })
}

// WithAdapter applies the LoRA adapter in a folder (adapter_config.json, adapters.safetensors). The native engine computes
// with MLX's own kernels then, as WithExact does.
func WithAdapter(path string) LoadOption {
	return LoadOption{func(o *loadOptions) { o.bridge.Adapter, o.native.Adapter = path, path }}
}

// WithDraftModel decodes speculatively: the small model in a folder proposes tokens, the large one checks
// several in one pass. It must have the same vocabulary. The text is that of plain decoding, seeded draws
// included, as far as passes of different lengths round alike.
func WithDraftModel(path string) LoadOption {
	return LoadOption{func(o *loadOptions) { o.bridge.Draft, o.native.Draft = path, path }}
}

// WithDevices says what the workers compute on, spread evenly: "cpu", "gpu", or "gpu:N" for one of several CUDA GPUs, which a worker
// then sees alone (CUDA_VISIBLE_DEVICES). With WithWorkers(4) and two GPUs each has two workers. The default is MLX's own choice.
func WithDevices(devices ...string) LoadOption {
	devices = slices.Clone(devices)
	return pythonOption("WithDevices", func(o *loadOptions) { o.bridge.Devices = devices })
}

// WithWorkerDir sets the workers' working directory; the default is the folder of their own source. Nothing is imported from it.
func WithWorkerDir(dir string) LoadOption {
	return pythonOption("WithWorkerDir", func(o *loadOptions) { o.bridge.Dir = dir })
}

// WithWorkerEnv sets environment variables of the workers, each as NAME=value. Of this program's environment they get only what Python
// and MLX need.
func WithWorkerEnv(variables ...string) LoadOption {
	variables = slices.Clone(variables)
	return pythonOption("WithWorkerEnv", func(o *loadOptions) { o.bridge.Environment = variables })
}

// WithOnline lets the workers' libraries use the network. It is off by default.
func WithOnline() LoadOption {
	return pythonOption("WithOnline", func(o *loadOptions) { o.bridge.Online = true })
}

// WithQuarantineDir sets where requests that ended two workers are written for diagnosis. The default is
// go-mlx/quarantine in the user's cache folder.
func WithQuarantineDir(path string) LoadOption {
	return pythonOption("WithQuarantineDir", func(o *loadOptions) { o.bridge.QuarantineDir = path })
}

// WithLoadEvents tells f of loading progress and of restarts, one event after the other, on a goroutine
// of its own. f must not close the model. The native engine, which loads in one go, sends none.
func WithLoadEvents(f func(Event)) LoadOption {
	return LoadOption{func(o *loadOptions) { o.bridge.Events = f }}
}

// WithLogger tells l of workers that start and of those that end unasked, and at slog.LevelDebug what they print.
func WithLogger(l *slog.Logger) LoadOption {
	return pythonOption("WithLogger", func(o *loadOptions) { o.bridge.Logger = l })
}

func pythonOption(name string, apply func(*loadOptions)) LoadOption {
	return LoadOption{func(o *loadOptions) {
		o.pythonOnly = append(o.pythonOnly, name)
		apply(o)
	}}
}

// nativeOption is an option that only the native engine has.
func nativeOption(name string, apply func(*loadOptions)) LoadOption {
	return LoadOption{func(o *loadOptions) {
		o.nativeOnly = append(o.nativeOnly, name)
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

// WithSeed fixes the random draws: the same request gives the same tokens. Each request has random keys of
// its own, so that draws do not depend on company; see WithSolo for rounding.
func WithSeed(seed uint64) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Seed, o.HasSeed = seed, true }}
}

// WithPresencePenalty subtracts p from the logits of recent tokens; the default is 0.
func WithPresencePenalty(p float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.PresencePenalty = p }}
}

// WithFrequencyPenalty subtracts p from the logits of recent tokens, times how often each occurred; the
// default is 0.
func WithFrequencyPenalty(p float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.FrequencyPenalty = p }}
}

// WithLogitBias adds to the logits of single tokens.
func WithLogitBias(bias map[int32]float32) GenerateOption {
	bias = maps.Clone(bias)
	return GenerateOption{func(o *engine.GenerateOptions) { o.LogitBias = bias }}
}

// WithXTC cuts, with the given probability at every token, all tokens that are more likely than the
// threshold but the least likely of them ("exclude top choices").
func WithXTC(probability, threshold float32) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.XTCProbability, o.XTCThreshold = probability, threshold }}
}

// WithSegments splits the text into reasoning, tool calls and the rest, by the marks that mlx-lm knows for
// the model: see Token.Segments. Token.Text then holds the marks too. A tool call comes whole, parsed into Segment.Calls;
// Token.CallText has what is certain of one under way.
// The native engine reads calls in JSON (Qwen, Hermes), Mistral's, Llama 3's and FunctionGemma's; a model with another notation is an *OptionError
// there.
func WithSegments() GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Segments = true }}
}

// WithPlainContent takes what spells a control token in messages and tools, such as <end_of_turn>, for the text that it is, so that
// nobody whose text is part of a chat can end a turn or begin one. Use it for texts of others. Classify does so always; tokens that the
// chat template itself writes keep their meaning.
func WithPlainContent() GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.PlainContent = true }}
}

// WithTools gives tools, a JSON list, to the chat template.
func WithTools(tools []byte) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Tools = tools }}
}

// WithTemplateArguments gives values to the chat template by name, e.g. enable_thinking.
func WithTemplateArguments(arguments map[string]any) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.TemplateArguments = arguments }}
}

// WithQuantizedKV keeps the KV cache in 2, 3, 4, 6 or 8 bits, in groups of 32, 64 or 128 values, from
// start tokens on.
func WithQuantizedKV(bits, group, start int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize, o.KVStart = bits, group, start }}
}

// WithMaxKVSize keeps the KV of the first 4 and the last tokens only, n together, where the architecture
// leaves the size of its caches open.
func WithMaxKVSize(n int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.MaxKVSize = n }}
}

// WithDraftTokens sets how many tokens the draft model proposes at a time; the default is 3.
func WithDraftTokens(n int) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.DraftTokens = n }}
}

// WithJSONSchema makes the text a JSON document that follows a schema, without spaces between its parts. Grammars go with
// sampling, penalties and batches, and may end early only by the token limit. The python engine's workers need llguidance for
// them, which requirements.txt names.
func WithJSONSchema(schema []byte) GenerateOption {
	return grammarOption("json_schema", string(schema))
}

// WithRegex makes the whole text match a regular expression (Rust's syntax, without look-around).
func WithRegex(pattern string) GenerateOption { return grammarOption("regex", pattern) }

// WithChoices makes the text one of the given ones.
func WithChoices(choices ...string) GenerateOption {
	list, err := json.Marshal(choices)
	if err != nil { // strings can always be written
		panic(err)
	}
	return grammarOption("choices", string(list))
}

// WithGrammar makes the text follow a context-free grammar in the Lark-like syntax of llguidance.
func WithGrammar(lark string) GenerateOption { return grammarOption("lark", lark) }

func grammarOption(kind, text string) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Grammar = engine.Grammar{Kind: kind, Text: text} }}
}

// WithSolo computes the request in passes of its own. Requests are batched otherwise, and where kernels
// round differently for other batch sizes, as on GPUs, a close call between two tokens can then depend on
// the company; with WithSolo it never does. It takes turns with the others.
func WithSolo() GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Solo = true }}
}

// WithSession names the conversation that a request belongs to. Requests of a session go to the same
// worker where they can, so that its prompt cache helps.
func WithSession(id string) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Session = id }}
}

// WithEvents tells f of prefill progress and of gaps: a worker that ended in mid-stream and another one
// that went on. f runs on the goroutine that reads the stream.
func WithEvents(f func(Event)) GenerateOption {
	return GenerateOption{func(o *engine.GenerateOptions) { o.Events = f }}
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

// EmbedOption changes one embedding call.
type EmbedOption struct {
	apply func(*engine.EmbedOptions)
}

// WithPromptName puts one of the model's own prompts before each text, e.g. "query" or "document".
func WithPromptName(name string) EmbedOption {
	return EmbedOption{func(o *engine.EmbedOptions) { o.Prompt = name }}
}

// WithDimensions cuts the vectors to their first n values and norms them anew, for models trained for that.
func WithDimensions(n int) EmbedOption {
	return EmbedOption{func(o *engine.EmbedOptions) { o.Dimensions = n }}
}
