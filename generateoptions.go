package mlx

import (
	"encoding/json"
	"maps"
	"slices"
	"unicode/utf8"

	"forge.lthn.ai/core/go-mlx/engine"
)

// GenerateOption changes one generation. Options are checked when the stream starts; a bad value is the stream's error, an
// *OptionError.
type GenerateOption interface {
	applyGenerate(*engine.GenerateOptions)
}

type generateOption func(*engine.GenerateOptions)

func (f generateOption) applyGenerate(o *engine.GenerateOptions) { f(o) }

func generateOptions(options []GenerateOption) engine.GenerateOptions {
	o := engine.DefaultGenerateOptions()
	for _, option := range options {
		if option != nil {
			option.applyGenerate(&o)
		}
	}
	return o
}

// part is a member of one of the groups of options below. The zero value changes nothing.
type part struct {
	apply func(*engine.GenerateOptions)
}

func group[T ~struct{ part }](parts []T) GenerateOption {
	parts = slices.Clone(parts)
	return generateOption(func(o *engine.GenerateOptions) {
		for _, p := range parts {
			if apply := (struct{ part })(p).apply; apply != nil {
				apply(o)
			}
		}
	})
}

// WithMaxTokens limits the number of generated tokens; the default is 256. The model's context length limits it further.
func WithMaxTokens(n int) GenerateOption {
	return generateOption(func(o *engine.GenerateOptions) { o.MaxTokens = n })
}

// WithTemperature divides the log-probabilities before a token is drawn. The default, 0, always takes the most likely token.
func WithTemperature(t float32) GenerateOption {
	return generateOption(func(o *engine.GenerateOptions) { o.Temperature = t })
}

// WithSeed fixes the random draws: the same request gives the same tokens. Each request has random keys of its own, so that draws do
// not depend on what else is computed; see Solo for rounding.
func WithSeed(seed uint64) GenerateOption {
	return generateOption(func(o *engine.GenerateOptions) { o.Seed, o.HasSeed = seed, true })
}

// WithStop ends the stream before any of these strings; they are not part of the text.
func WithStop(stop ...string) GenerateOption {
	stop = slices.Clone(stop)
	return generateOption(func(o *engine.GenerateOptions) { o.Stop = stop })
}

// WithTools gives tools, a JSON list, to the chat template.
func WithTools(tools []byte) GenerateOption {
	tools = slices.Clone(tools)
	return generateOption(func(o *engine.GenerateOptions) { o.Tools = tools })
}

// SamplingOption says how a token is chosen; see WithSampling.
type SamplingOption struct{ part }

// WithSampling says how tokens are chosen, besides WithTemperature and WithSeed.
func WithSampling(options ...SamplingOption) GenerateOption { return group(options) }

func sampling(apply func(*engine.GenerateOptions)) SamplingOption {
	return SamplingOption{part{apply}}
}

// TopK draws among the k most likely tokens; 0, the default, draws among all.
func TopK(k int) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.TopK = k })
}

// TopP draws among the most likely tokens that together have probability p; the default is 1.
func TopP(p float32) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.TopP = p })
}

// MinP drops tokens that are less likely than p times the most likely one; the default is 0.
func MinP(p float32) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.MinP = p })
}

// XTC cuts, with the given probability at every token, all tokens that are more likely than the threshold but the least likely of
// them ("exclude top choices").
func XTC(probability, threshold float32) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.XTCProbability, o.XTCThreshold = probability, threshold })
}

// RepetitionPenalty divides positive and multiplies negative logits of recent tokens by p; the default, 1, changes nothing.
func RepetitionPenalty(p float32) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.RepetitionPenalty = p })
}

// PresencePenalty subtracts p from the logits of recent tokens; the default is 0.
func PresencePenalty(p float32) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.PresencePenalty = p })
}

// FrequencyPenalty subtracts p from the logits of recent tokens, times how often each occurred; the default is 0.
func FrequencyPenalty(p float32) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.FrequencyPenalty = p })
}

// RepetitionContext sets how many recent tokens, prompt included, the three penalties look at; the default is 20.
func RepetitionContext(n int) SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.RepetitionContext = n })
}

// LogitBias adds to the logits of single tokens.
func LogitBias(bias map[int32]float32) SamplingOption {
	bias = maps.Clone(bias)
	return sampling(func(o *engine.GenerateOptions) { o.LogitBias = bias })
}

// StopTokens ends the stream at any of these tokens, as at the model's own end tokens.
func StopTokens(ids ...int32) SamplingOption {
	ids = slices.Clone(ids)
	return sampling(func(o *engine.GenerateOptions) { o.StopTokens = ids })
}

// IgnoreEOS goes on after the model's own end tokens, up to the token limit: for benchmarks and comparisons.
func IgnoreEOS() SamplingOption {
	return sampling(func(o *engine.GenerateOptions) { o.IgnoreEOS = true })
}

// Constraint is a form that the whole text must have; see WithConstraint. The zero value allows every text.
type Constraint struct{ grammar engine.Grammar }

// WithConstraint makes the text follow c. Constraints go with sampling, penalties and batches; only the token limit may cut a text
// short. The python engine's workers need llguidance for them, which requirements.txt names.
func WithConstraint(c Constraint) GenerateOption {
	return generateOption(func(o *engine.GenerateOptions) { o.Grammar = c.grammar })
}

// JSONSchema allows JSON documents that follow a schema, without spaces between their parts.
func JSONSchema(schema []byte) Constraint {
	return Constraint{engine.Grammar{Kind: "json_schema", Text: string(schema)}}
}

// Regex allows texts that match a regular expression as a whole (Rust's syntax, without look-around).
func Regex(pattern string) Constraint {
	return Constraint{engine.Grammar{Kind: "regex", Text: pattern}}
}

// Choices allows the given texts.
func Choices(choices ...string) Constraint {
	for _, choice := range choices {
		if !utf8.ValidString(choice) { // JSON would replace what is not UTF-8; as it is, it is refused when the stream starts
			return Constraint{engine.Grammar{Kind: "choices", Text: choice}}
		}
	}
	list, err := json.Marshal(choices)
	if err != nil { // strings can always be written
		panic(err)
	}
	return Constraint{engine.Grammar{Kind: "choices", Text: string(list)}}
}

// Grammar allows texts of a context-free grammar in the Lark-like syntax of llguidance.
func Grammar(lark string) Constraint {
	return Constraint{engine.Grammar{Kind: "lark", Text: lark}}
}

// KVOption is about the KV cache of a stream; see WithKV.
type KVOption struct{ part }

// WithKV makes the KV cache of a stream smaller.
func WithKV(options ...KVOption) GenerateOption { return group(options) }

// QuantizedKV keeps the KV cache in 2, 3, 4, 6 or 8 bits, in groups of 32, 64 or 128 values, from start tokens on; 0 bits do not
// quantise.
func QuantizedKV(bits, group, start int) KVOption {
	return KVOption{part{func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize, o.KVStart = bits, group, start }}}
}

// MaxKVSize keeps the KV of the first 4 and the last tokens only, n together, where the architecture leaves the size of its caches
// open; 0 keeps all.
func MaxKVSize(n int) KVOption {
	return KVOption{part{func(o *engine.GenerateOptions) { o.MaxKVSize = n }}}
}

// TemplateOption is about the chat template; see WithTemplate.
type TemplateOption struct{ part }

// WithTemplate says how messages become a prompt.
func WithTemplate(options ...TemplateOption) GenerateOption { return group(options) }

// TemplateArguments gives values to the chat template by name, e.g. enable_thinking.
func TemplateArguments(arguments map[string]any) TemplateOption {
	arguments = maps.Clone(arguments)
	return TemplateOption{part{func(o *engine.GenerateOptions) { o.TemplateArguments = arguments }}}
}

// PlainContent encodes what spells a control token in messages and tools, such as <end_of_turn>, as text, so that the author of a message
// cannot end a turn or begin one. Use it for texts of users. Classify always does so; tokens that the chat template itself writes keep
// their meaning.
func PlainContent() TemplateOption {
	return TemplateOption{part{func(o *engine.GenerateOptions) { o.PlainContent = true }}}
}

// OutputOption is about what a stream's tokens carry; see WithOutput.
type OutputOption struct{ part }

// WithOutput says what a stream's tokens carry besides id and text.
func WithOutput(options ...OutputOption) GenerateOption { return group(options) }

// Segments splits the text into reasoning, tool calls and the rest, by the marks that mlx-lm knows for the model: see Token.Segments.
// Token.Text then holds the marks too. A tool call comes whole, parsed into Segment.Calls. The native engine reads calls in JSON
// (Qwen, Hermes), Mistral's, Llama 3's and FunctionGemma's notations; a model with another one is an *OptionError there.
func Segments() OutputOption {
	return OutputOption{part{func(o *engine.GenerateOptions) { o.Segments = true }}}
}

// LogProbs reports each token's log-probability.
func LogProbs() OutputOption {
	return OutputOption{part{func(o *engine.GenerateOptions) { o.LogProbs = true }}}
}

// TopLogProbs reports each token's log-probability and the n most likely tokens at its place, at most 100.
func TopLogProbs(n int) OutputOption {
	return OutputOption{part{func(o *engine.GenerateOptions) { o.LogProbs, o.TopLogProbs = true, n }}}
}

// SchedulingOption is about where and with what a request is computed; see WithScheduling.
type SchedulingOption struct{ part }

// WithScheduling says where and with what a request is computed.
func WithScheduling(options ...SchedulingOption) GenerateOption { return group(options) }

// Solo computes the request in passes of its own. Requests are batched otherwise, and where kernels round differently for other batch
// sizes, as on GPUs, a close call between two tokens can then depend on what else is in the batch; with Solo it never does. It takes
// turns with the others.
func Solo() SchedulingOption {
	return SchedulingOption{part{func(o *engine.GenerateOptions) { o.Solo = true }}}
}

// Session names the conversation that a request belongs to. Requests of a session go to the same worker where they can, so that its
// prompt cache helps.
func Session(id string) SchedulingOption {
	return SchedulingOption{part{func(o *engine.GenerateOptions) { o.Session = id }}}
}

// DraftTokens sets how many tokens the draft model proposes at a time; the default is 3, and 0 decodes without the draft model.
func DraftTokens(n int) SchedulingOption {
	return SchedulingOption{part{func(o *engine.GenerateOptions) {
		if o.DraftTokens = n; n <= 0 {
			o.DraftTokens = engine.NoDraft + n // the field's zero is the default; what is below NoDraft is refused
		}
	}}}
}

// EmbedOption changes one embedding call.
type EmbedOption struct {
	apply func(*embedOptions)
}

type embedOptions struct {
	engine.EmbedOptions
	err error
}

// WithPromptName puts one of the model's own prompts before each text, e.g. "query" or "document".
func WithPromptName(name string) EmbedOption {
	return EmbedOption{func(o *embedOptions) { o.Prompt = name }}
}

// WithDimensions cuts the vectors to their first n values and norms them anew, for models trained for that.
func WithDimensions(n int) EmbedOption {
	return EmbedOption{func(o *embedOptions) {
		if o.Dimensions = n; n == 0 {
			o.err = &OptionError{Option: "WithDimensions", Reason: "a vector of no values says nothing; leave the option out for all"}
		}
	}}
}

// WithTokenIDs gives texts as token ids, which are taken as they are: those at i stand for the text at i, unless they are nil.
func WithTokenIDs(ids [][]int32) EmbedOption {
	return EmbedOption{func(o *embedOptions) { o.IDs = ids }}
}
