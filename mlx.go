// Package mlx runs MLX language models from Go.
//
//	m, err := mlx.LoadModel("/models/gemma-3-1b")
//	defer m.Close()
//	for tok := range m.Generate(ctx, "Once upon a time", mlx.WithMaxTokens(128)) {
//		fmt.Print(tok.Text)
//	}
//
// Besides text, a model sorts texts by labels ([TextModel].Classify), answers chats, and gives embeddings. [Host] keeps several models
// in one memory budget; [Train] makes LoRA adapters; [TrainClassifier] fits a small classifier to labelled texts.
//
// # Engines
//
// Two engines compute. The native engine runs inside the process, on MLX by way of mlx-c. The python engine supervises mlx-lm in worker
// processes, and serves every architecture that mlx-lm knows. [LoadModel] picks the native one where it can, and says which it took,
// and why, in [ModelInfo]. What only one engine can do is an interface that its models implement besides [TextModel]:
// [PromptCacheFiles], [HiddenStates], [Supervised], [Shadowed].
//
// # Streams and errors
//
// Generate and Chat return an iter.Seq2 of tokens and errors:
//
//	for tok, err := range m.Generate(ctx, prompt) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(tok.Text)
//	}
//
// The error belongs to its stream and not to the model, so streams may run side by side. A loop over the tokens alone, as above,
// also compiles; a stream that failed then ends with one empty token. [Collect] reads a stream to its end.
//
// # Options
//
// Options that most programs set are functions of their own: [WithMaxTokens], [WithTemperature], [WithEngine]. The others are grouped by subject:
// [WithSampling], [WithConstraint], [WithKV], [WithTemplate], [WithOutput] and [WithScheduling] for a generation, [WithNative] and
// [WithPython] for loading, [WithLabels] for classification.
//
//	m.Chat(ctx, messages, mlx.WithTemperature(0.7), mlx.WithSampling(mlx.TopP(0.9), mlx.TopK(40)))
//
// An invalid value is an [*OptionError] that names the function which set it.
package mlx

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// TextModel is a loaded model. All methods are safe for concurrent use.
type TextModel interface {
	// Generate streams the tokens that follow a raw prompt. The last token carries a FinishReason. When
	// ctx ends, the stream yields its error; breaking out of the loop stops the work.
	Generate(ctx context.Context, prompt string, options ...GenerateOption) iter.Seq2[Token, error]
	// Chat renders messages with the model's chat template and streams the assistant's answer.
	Chat(ctx context.Context, messages []Message, options ...GenerateOption) iter.Seq2[Token, error]
	// GenerateIDs is Generate for a prompt of token ids, taken as they are.
	GenerateIDs(ctx context.Context, ids []int32, options ...GenerateOption) iter.Seq2[Token, error]
	// PromptLogProbs returns the tokens of a prompt, each with the log-probability that the model gives it after those before, and
	// the top most likely ones in its place. The first token has neither.
	PromptLogProbs(ctx context.Context, ids []int32, top int) ([]Token, error)
	// Classify finds the label that fits each text best. Results come in the order of texts.
	Classify(ctx context.Context, texts, labels []string, options ...ClassifyOption) ([]Classification, error)
	// Embed returns a vector for each text, all of one length.
	Embed(ctx context.Context, texts []string, options ...EmbedOption) ([][]float32, error)
	// Tokenizer gives access to token ids and the chat template.
	Tokenizer() Tokenizer
	// Info describes the model and says which engine runs it, and why.
	Info() ModelInfo
	// Metrics reads counters and memory figures.
	Metrics(ctx context.Context) (Metrics, error)
	// Close ends streams under way with ErrClosed, frees all memory and ends all processes. It may be called again, and from within a
	// stream's loop.
	Close() error
}

// Tokenizer turns text into token ids and back, as the model sees them.
type Tokenizer interface {
	// Encode returns token ids; special adds what the tokenizer puts around every text, such as <bos>.
	Encode(ctx context.Context, text string, special bool) ([]int32, error)
	// Decode returns the text of token ids, without special tokens.
	Decode(ctx context.Context, ids []int32) (string, error)
	// RenderChat renders messages with the chat template and opens the assistant's turn. Only the options WithTools and
	// TemplateArguments have an effect.
	RenderChat(ctx context.Context, messages []Message, options ...GenerateOption) (string, error)
	// EncodeChat returns the token ids of the prompt that Chat makes of messages. With PlainContent they differ from those
	// of the rendered text if a message spells a control token.
	EncodeChat(ctx context.Context, messages []Message, options ...GenerateOption) ([]int32, error)
}

// model is a TextModel over either engine.
type model struct {
	engine engine.Engine
	reason string  // why this engine was chosen
	source string  // what was found where
	shadow *shadow // nil without
	priors priors  // of the label sets used most recently

	fingerprint atomic.Pointer[string] // nil until a classifier is first used: it is made of the model's files

	// The model's part of a memory budget; nil without one.
	claim       *admission.Claim  // of the native engine; the python engine claims memory for each worker
	joined      *admission.Memory // of a model that its caller loads
	expected    int64             // bytes that claim was made for
	promptCache int64             // bytes of them that the prompt cache may come to hold
}

// measure sets the claim to what the native engine holds now, if that is more than was expected. If the model is too busy to answer, the
// claim stays as it is.
func (m *model) measure(ctx context.Context) {
	if m.claim == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second/2)
	defer cancel()
	if now, err := m.engine.Metrics(ctx); err == nil {
		m.claim.Resize(max(m.expected, now.WeightBytes+now.KVBytes+now.CachedKVBytes+m.promptCache))
	}
}

func (m *model) Generate(ctx context.Context, prompt string, options ...GenerateOption) iter.Seq2[Token, error] {
	return m.generate(ctx, engine.Prompt{Text: prompt}, generateOptions(options))
}

func (m *model) Chat(ctx context.Context, messages []Message, options ...GenerateOption) iter.Seq2[Token, error] {
	return m.generate(ctx, engine.Prompt{Messages: messages}, generateOptions(options))
}

func (m *model) GenerateIDs(ctx context.Context, ids []int32, options ...GenerateOption) iter.Seq2[Token, error] {
	return m.generate(ctx, engine.Prompt{IDs: slices.Clone(ids)}, generateOptions(options))
}

func (m *model) generate(ctx context.Context, prompt engine.Prompt, o engine.GenerateOptions) iter.Seq2[Token, error] {
	stream := namedStream(m.engine.Generate(ctx, prompt, o))
	if m.shadow == nil {
		return stream
	}
	return m.shadow.generated(stream, prompt, o)
}

func (m *model) Embed(ctx context.Context, texts []string, options ...EmbedOption) ([][]float32, error) {
	var o embedOptions
	for _, option := range options {
		if option.apply != nil {
			option.apply(&o)
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	vectors, err := m.engine.Embed(ctx, texts, o.EmbedOptions)
	return vectors, named(err)
}

func (m *model) PromptLogProbs(ctx context.Context, ids []int32, top int) ([]Token, error) {
	return m.engine.PromptLogProbs(ctx, ids, top)
}

func (m *model) Tokenizer() Tokenizer { return tokens{m.engine} }

// tokens is an engine as a Tokenizer.
type tokens struct{ engine.Engine }

// Decode refuses ids that the model does not have, for both engines alike.
func (t tokens) Decode(ctx context.Context, ids []int32) (string, error) {
	size := t.Info().VocabSize
	for _, id := range ids {
		if id < 0 || size > 0 && int(id) >= size {
			return "", &TokenError{ID: id, VocabSize: size}
		}
	}
	return t.Engine.Decode(ctx, ids)
}

func (t tokens) RenderChat(ctx context.Context, messages []Message, options ...GenerateOption) (string, error) {
	o, err := templateOptions(options)
	if err != nil {
		return "", err
	}
	text, err := t.Engine.RenderChat(ctx, messages, o)
	return text, named(err)
}

func (t tokens) EncodeChat(ctx context.Context, messages []Message, options ...GenerateOption) ([]int32, error) {
	o, err := templateOptions(options)
	if err != nil {
		return nil, err
	}
	ids, err := t.Engine.EncodeChat(ctx, messages, o)
	return ids, named(err)
}

// templateOptions are checked options for a template: the engines check all options for a generation only.
func templateOptions(options []GenerateOption) (engine.GenerateOptions, error) {
	o := generateOptions(options)
	return o, named(o.Validate(0))
}

func (m *model) Info() ModelInfo {
	info := m.engine.Info()
	info.Reason, info.Source = m.reason, m.source
	return info
}

func (m *model) Metrics(ctx context.Context) (Metrics, error) {
	metrics, err := m.engine.Metrics(ctx)
	m.shadow.metrics(&metrics)
	return metrics, err
}

func (m *model) Close() error {
	err := errors.Join(m.shadow.close(), m.engine.Close())
	if m.claim != nil {
		m.claim.Release()
	}
	if m.joined != nil {
		m.joined.Leave()
	}
	return err
}
