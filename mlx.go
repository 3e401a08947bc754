// Package mlx runs MLX language models from Go.
//
//	m, err := mlx.LoadModel("/models/gemma-3-1b")
//	if err != nil { ... }
//	defer m.Close()
//	for tok, err := range m.Generate(ctx, "Once upon a time", mlx.WithMaxTokens(128)) {
//		if err != nil { ... }
//		fmt.Print(tok.Text)
//	}
//
// Two engines stand behind it. The native engine computes inside the process, on MLX by way of mlx-c.
// The python engine supervises mlx-lm workers and serves every architecture that mlx-lm knows.
// [LoadModel] picks the native one where it can and says which it took, and why, in [ModelInfo].
//
// # Streams
//
// Generate and Chat return an iter.Seq2 of tokens and errors. The error belongs to its stream and not
// to the model, so streams may run side by side; `for tok := range` without the error also compiles,
// and then a failed stream ends with one empty token.
package mlx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// Types of requests and results; see their own documentation.
type (
	// Token is one generated token.
	Token = engine.Token
	// TokenLogProb is a token id with its log-probability.
	TokenLogProb = engine.TokenLogProb
	// FinishReason says why a stream ended.
	FinishReason = engine.FinishReason
	// Message is one turn of a chat.
	Message = engine.Message
	// ToolCall is a call that the assistant made in an earlier turn.
	ToolCall = engine.ToolCall
	// FunctionCall is the function and the arguments of a ToolCall.
	FunctionCall = engine.FunctionCall
	// Segment is a piece of text of one kind.
	Segment = engine.Segment
	// SegmentKind says what a Segment is for.
	SegmentKind = engine.SegmentKind
	// Event tells of progress and of trouble that was overcome.
	Event = engine.Event
	// EventKind names an Event.
	EventKind = engine.EventKind
	// Classification is the result for one text.
	Classification = engine.Classification
	// Calibration is a temperature for honest probabilities, and what it changed.
	Calibration = engine.Calibration
	// LabelScore is one label's part of a Classification.
	LabelScore = engine.LabelScore
	// ModelInfo describes a loaded model.
	ModelInfo = engine.Info
	// Metrics are figures of a loaded model at one moment.
	Metrics = engine.Metrics
)

// Reasons to end a stream.
const (
	FinishStop   = engine.FinishStop
	FinishLength = engine.FinishLength
)

// Kinds of segments.
const (
	SegmentNormal    = engine.SegmentNormal
	SegmentReasoning = engine.SegmentReasoning
	SegmentTool      = engine.SegmentTool
)

// Kinds of events.
const (
	EventLoad    = engine.EventLoad
	EventOutput  = engine.EventOutput
	EventPrefill = engine.EventPrefill
	EventRestart = engine.EventRestart
	EventGap     = engine.EventGap
	EventWait    = engine.EventWait
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
	// PromptLogProbs returns the tokens of a prompt, each with the log-probability that the model gives it behind those before, and
	// the top most likely ones in its place. The first token has neither.
	PromptLogProbs(ctx context.Context, ids []int32, top int) ([]Token, error)
	// Classify finds the label that fits each text best. Results come in the order of texts.
	Classify(ctx context.Context, texts, labels []string, options ...ClassifyOption) ([]Classification, error)
	// Embed returns a vector for each text, all of one length. Native engine only.
	Embed(ctx context.Context, texts []string, options ...EmbedOption) ([][]float32, error)
	// Tokenizer gives access to token ids and the chat template.
	Tokenizer() Tokenizer
	// Info describes the model and says which engine runs it, and why.
	Info() ModelInfo
	// Metrics reads counters and memory figures.
	Metrics(ctx context.Context) (Metrics, error)
	// Close ends streams under way with ErrClosed and gives all memory and processes back. It may be
	// called again, and from within a stream's loop.
	Close() error
}

// Python gives access to what only models of the python engine have: Stat, Reset, Shutdown. The second result
// is false for other models. m stays the owner: close it, not the result.
func Python(m TextModel) (*bridge.Model, bool) {
	of, ok := m.(*model)
	if !ok {
		return nil, false
	}
	python, ok := of.engine.(*bridge.Model)
	return python, ok
}

// Tokenizer turns text into token ids and back, as the model sees them.
type Tokenizer interface {
	// Encode returns token ids; special adds what the tokenizer puts around every text, such as <bos>.
	Encode(ctx context.Context, text string, special bool) ([]int32, error)
	// Decode returns the text of token ids, without special tokens.
	Decode(ctx context.Context, ids []int32) (string, error)
	// RenderChat renders messages with the chat template and opens the assistant's turn. Of the options WithTools and
	// WithTemplateArguments count.
	RenderChat(ctx context.Context, messages []Message, options ...GenerateOption) (string, error)
	// EncodeChat returns the token ids of the prompt that Chat makes of messages. With WithPlainContent they are other than those
	// of the rendered text, if a message spells a control token.
	EncodeChat(ctx context.Context, messages []Message, options ...GenerateOption) ([]int32, error)
}

// model is a TextModel over either engine.
type model struct {
	engine engine.Engine
	reason string  // why this engine was chosen
	source string  // what was found where
	shadow *shadow // nil without
	priors priors  // of the sets of labels used last

	matched atomic.Pointer[Classifier] // the last one that was found to be of this model

	// What the model holds of a budget; nil without one.
	claim       *admission.Claim  // of the native engine; the other claims for its workers
	joined      *admission.Memory // of a model that its caller loads
	expected    int64             // bytes that claim was made for
	promptCache int64             // bytes of them that the prompt cache may come to hold
}

// measure brings the claim to what the native engine holds now, if that is more than was expected. A model that is too busy to say keeps
// what it had.
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
	stream := m.engine.Generate(ctx, prompt, o)
	if m.shadow == nil {
		return stream
	}
	return m.shadow.generated(stream, prompt, o)
}

func (m *model) Embed(ctx context.Context, texts []string, options ...EmbedOption) ([][]float32, error) {
	var o engine.EmbedOptions
	for _, option := range options {
		option.apply(&o)
	}
	return m.engine.Embed(ctx, texts, o)
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
			return "", &OptionError{Option: "ids", Reason: fmt.Sprintf("the vocabulary of %d tokens has no id %d", size, id)}
		}
	}
	return t.Engine.Decode(ctx, ids)
}

func (t tokens) RenderChat(ctx context.Context, messages []Message, options ...GenerateOption) (string, error) {
	return t.Engine.RenderChat(ctx, messages, generateOptions(options))
}

func (t tokens) EncodeChat(ctx context.Context, messages []Message, options ...GenerateOption) ([]int32, error) {
	return t.Engine.EncodeChat(ctx, messages, generateOptions(options))
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

// Completion is a whole stream.
type Completion struct {
	Text         string
	Tokens       []Token
	FinishReason FinishReason
	PromptTokens int
}

// Collect reads a stream to its end. On an error it returns what came before it as well.
func Collect(stream iter.Seq2[Token, error]) (Completion, error) {
	var c Completion
	for tok, err := range stream {
		if err != nil {
			return c, err
		}
		c.Text += tok.Text
		c.Tokens = append(c.Tokens, tok)
		c.FinishReason, c.PromptTokens = tok.FinishReason, tok.PromptTokens
	}
	return c, nil
}

// promptCacher is an engine whose prompt cache can be written to a file.
type promptCacher interface {
	SavePromptCache(ctx context.Context, path string) error
	LoadPromptCache(ctx context.Context, path string) error
}

// SavePromptCache writes what WithPromptCache has kept to a safetensors file, for LoadPromptCache. Only the native
// engine can.
func SavePromptCache(ctx context.Context, m TextModel, path string) error {
	c, err := promptCacherOf(m, "SavePromptCache")
	if err != nil {
		return err
	}
	return c.SavePromptCache(ctx, path)
}

// LoadPromptCache adds the contents of a file that SavePromptCache wrote to the prompt cache. The model must be the
// same; a file of another one, or a broken one, is an error and changes nothing.
func LoadPromptCache(ctx context.Context, m TextModel, path string) error {
	c, err := promptCacherOf(m, "LoadPromptCache")
	if err != nil {
		return err
	}
	return c.LoadPromptCache(ctx, path)
}

func promptCacherOf(m TextModel, what string) (promptCacher, error) {
	if m, ok := m.(*model); ok {
		if c, ok := m.engine.(promptCacher); ok {
			return c, nil
		}
	}
	return nil, &OptionError{Option: what, Reason: "only the native engine has it"}
}
