package mlx

import (
	"fmt"
	"slices"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// Engine names an engine; see [engine.Name].
type Engine = engine.Name

// Engines.
const (
	EngineAuto   = engine.Auto   // native where the architecture is supported, else python
	EngineNative = engine.Native // in this process
	EnginePython = engine.Python // mlx-lm workers
	EngineNone   = engine.None   // what Inspect says of a model that neither can run
)

// LoadOption changes how LoadModel loads a model. Options are checked while loading; a bad value is an *OptionError.
type LoadOption interface{ applyLoad(*loadOptions) }

type loadOption func(*loadOptions)

func (f loadOption) applyLoad(o *loadOptions) { f(o) }

// loadOptions is the sum of all LoadOptions of a call.
type loadOptions struct {
	engine     Engine
	pythonOnly []string // options given that only the python engine has, by the names that the caller wrote
	nativeOnly []string // options given that only the native engine has
	bridge     bridge.Options
	native     engine.NativeOptions
	shadow     *shadowOptions // nil without
	budget     int64          // bytes; 0 for no limit
	host       *Host
	memory     *admission.Memory // of a host or of the model's own budget; nil without
	err        error             // about the first invalid option
}

// loadOptionsOf applies options.
func loadOptionsOf(options []LoadOption) loadOptions {
	o := loadOptions{engine: EngineAuto}
	o.apply(options)
	return o
}

func (o *loadOptions) apply(options []LoadOption) {
	for _, option := range options {
		if option != nil {
			option.applyLoad(o)
		}
	}
}

// fail remembers the first option with an invalid value.
func (o *loadOptions) fail(option, format string, args ...any) {
	if o.err == nil {
		o.err = &OptionError{Option: option, Reason: fmt.Sprintf(format, args...)}
	}
}

// positive checks a number for which zero has no meaning: a program that wants the default leaves the option out.
func positive[T int | int64](o *loadOptions, option string, n T) {
	if n <= 0 {
		o.fail(option, "%d is not positive; leave the option out for the default", n)
	}
}

// WithEngine chooses the engine; the default is EngineAuto.
func WithEngine(e Engine) LoadOption { return loadOption(func(o *loadOptions) { o.engine = e }) }

// WithMemoryBudget sets how many bytes the model may hold: weights, draft and adapter once for each process that loads them,
// prompt caches, and KV. What would never fit fails with ErrBudget. Native engine: KV kept for later requests is freed first; then
// requests wait until those that came before have ended, and go on where they were, with EventWait; the account is MLX's, which counts
// the whole process. Python engine: a worker that would not fit beside the others is not started. Without the option there is no limit.
// For several models together see Host.
func WithMemoryBudget(bytes int64) LoadOption {
	return loadOption(func(o *loadOptions) {
		positive(o, "WithMemoryBudget", bytes)
		o.budget, o.native.MemoryBudget = bytes, bytes
	})
}

// WithHost makes a model that the caller loads and closes count in the budget of a host: the load, and further workers of the python
// engine, wait for memory like those of the host's own models, and others wait for what it holds. It is never closed for others.
// The func of WithEvents hears what it waits for.
func WithHost(h *Host) LoadOption {
	return loadOption(func(o *loadOptions) {
		if o.host = h; h == nil || h.registry == nil {
			o.fail("WithHost", "it is nil, or was not made by NewHost; leave the option out for a model without a host")
		}
	})
}

// WithPromptCache keeps the KV of earlier requests (in each worker of the python engine), up to this many bytes, for requests that begin
// with the same tokens, as the turns of a chat do. It is off by default: where kernels round differently for other lengths, the last
// bits of a log-probability may depend on what was kept.
func WithPromptCache(bytes int64) LoadOption {
	return loadOption(func(o *loadOptions) { o.bridge.PromptCache, o.native.PromptCache = bytes, bytes })
}

// WithBatch sets how many requests are computed together (in each worker of the python engine, at most 1024); the default is 32. With 1
// they take turns, which is slower, but then a token's bits never depend on what else is computed.
func WithBatch(n int) LoadOption {
	return loadOption(func(o *loadOptions) {
		positive(o, "WithBatch", n)
		o.bridge.Batch, o.native.Batch = n, n
	})
}

// WithAdapter applies the LoRA adapter in a folder (adapter_config.json, adapters.safetensors). The native engine computes
// with MLX's own kernels then, as Exact does.
func WithAdapter(path string) LoadOption {
	return loadOption(func(o *loadOptions) { o.bridge.Adapter, o.native.Adapter = path, path })
}

// WithDraftModel decodes speculatively: the small model in a folder proposes tokens, the large one checks several in one pass. It must
// have the same vocabulary. The text is that of plain decoding, seeded draws included, as far as passes of different lengths round
// alike. DraftTokens sets how many are proposed.
func WithDraftModel(path string) LoadOption {
	return loadOption(func(o *loadOptions) { o.bridge.Draft, o.native.Draft = path, path })
}

// WithEvents calls f with progress and with faults that were handled. Given to LoadModel, f is told of loading and of workers that wait for
// memory or were replaced, one event after the other on a goroutine of its own; and of memory that the load itself waits for, on the
// goroutine that loads. f must not close the model. The native engine loads in one go, and sends EventWait only. Given to a generation, f
// is told of prefill, of waits for memory, and of gaps (a worker ended in mid-stream, and another one went on), on the goroutine that reads
// the stream.
func WithEvents(f func(Event)) EventsOption { return EventsOption{f} }

// EventsOption is an option of loading and of generation; see WithEvents.
type EventsOption struct{ f func(Event) }

func (e EventsOption) applyLoad(o *loadOptions)                { o.bridge.Events = e.f }
func (e EventsOption) applyGenerate(o *engine.GenerateOptions) { o.Events = e.f }

var (
	_ LoadOption     = EventsOption{}
	_ GenerateOption = EventsOption{}
)

// engineOption is an option that only one engine has. The zero value changes nothing.
type engineOption struct {
	name  string // of the function that the caller wrote
	apply func(*loadOptions)
}

// engineGroup applies options that only one engine has, and notes their names in the list of that engine. An empty group is noted by the
// name of the group: it chooses the engine, too.
func engineGroup[T ~struct{ engineOption }](name string, only func(*loadOptions) *[]string, options []T) LoadOption {
	options = slices.Clone(options)
	return loadOption(func(o *loadOptions) {
		names := only(o)
		if len(options) == 0 {
			*names = append(*names, name)
		}
		for _, option := range options {
			if given := (struct{ engineOption })(option).engineOption; given.apply != nil {
				*names = append(*names, given.name)
				given.apply(o)
			}
		}
	})
}

// NativeOption is an option of the native engine alone; see WithNative.
type NativeOption struct{ engineOption }

// WithNative sets what only the native engine has. It makes EngineAuto take that engine.
func WithNative(options ...NativeOption) LoadOption {
	return engineGroup("WithNative", func(o *loadOptions) *[]string { return &o.nativeOnly }, options)
}

func nativeOption(name string, apply func(*loadOptions)) NativeOption {
	return NativeOption{engineOption{name, apply}}
}

// Exact keeps the native engine to MLX's own kernels, in the order in which mlx-lm uses them, so that on one device both
// compute the same bits. Without it kernels of this module compute where they exist, on CPUs and NVIDIA GPUs: many times
// as fast, and on CPUs nearer to the model in float32, but with sums in another order.
func Exact() NativeOption {
	return nativeOption("Exact", func(o *loadOptions) { o.native.Exact = true })
}

// Threads sets how many threads the native engine's CPU kernels use, in the whole process: all models share them. Without
// it they are as many as the environment variable GO_MLX_THREADS says, or as GOMAXPROCS.
func Threads(n int) NativeOption {
	return nativeOption("Threads", func(o *loadOptions) {
		positive(o, "Threads", n)
		o.native.Threads = n
	})
}

// QuantizedGGUF keeps the weights of a GGUF file quantised on a CPU with Exact, too, where MLX computes much faster with weights in
// float: less memory for more time. It does so if all matrices are of types that MLX has exactly (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL,
// F16). On GPUs that is always done, and the CPU kernels, which compute without Exact, keep quantised weights of all types.
func QuantizedGGUF() NativeOption {
	return nativeOption("QuantizedGGUF", func(o *loadOptions) { o.native.QuantizedGGUF = true })
}
