package engine

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// GenerateOptions are the settings of one generation. Defaults are in DefaultGenerateOptions.
type GenerateOptions struct {
	MaxTokens         int
	Temperature       float32 // 0 takes the most likely token
	TopK              int     // sample among the k most likely tokens; 0 for all
	TopP              float32 // sample among the most likely tokens of this total probability; 1 for all
	MinP              float32 // drop tokens less likely than MinP times the best; 0 for none
	RepetitionPenalty float32 // divides positive and multiplies negative logits of recent tokens; 1 for none
	PresencePenalty   float32 // subtracted from the logits of recent tokens; 0 for none
	FrequencyPenalty  float32 // the same, times how often each occurred; 0 for none
	RepetitionContext int     // how many recent tokens, prompt included, the penalties look at
	LogitBias         map[int32]float32
	XTCProbability    float32 // how often to cut all tokens above XTCThreshold but the least likely of them
	XTCThreshold      float32
	Seed              uint64
	HasSeed           bool // without it a seed is drawn
	Stop              []string
	StopTokens        []int32
	IgnoreEOS         bool // the model's own end tokens do not end the stream
	LogProbs          bool
	TopLogProbs       int  // implies LogProbs
	PlainContent      bool // texts of messages never become control tokens: see Prompt.Plain
	Segments          bool // split text into reasoning, tool calls and the rest

	Tools             json.RawMessage // a JSON list, given to the chat template as "tools"
	TemplateArguments map[string]any  // given to the chat template by name

	KVBits      int // quantise the KV cache to this many bits; 0 for not
	KVGroupSize int
	KVStart     int // from this many tokens on
	MaxKVSize   int // keep only the first few and this many of the last tokens' KV; 0 keeps all
	DraftTokens int // tokens that the draft model proposes at a time; 0 for DefaultDraftTokens, NoDraft to decode without it

	Grammar Grammar // what the text must follow

	Solo    bool        // computed by itself, not in a batch
	Session string      // requests of a session go to the same worker, where their KV is kept
	Events  func(Event) // called with progress, on the goroutine that reads the stream
}

const (
	// DefaultDraftTokens is how many tokens a draft model proposes at a time, as in mlx-lm.
	DefaultDraftTokens = 3
	// NoDraft as DraftTokens decodes without the draft model.
	NoDraft = -1
)

// Grammar is a form that generated text must have: of kind "json_schema", "regex", "choices" (a JSON list of
// strings) or "lark". The zero Grammar allows every text.
type Grammar struct{ Kind, Text string }

// Option is the name of the option that sets a grammar of this kind.
func (g Grammar) Option() string {
	return map[string]string{"json_schema": "JSONSchema", "regex": "Regex", "choices": "Choices", "lark": "Grammar"}[g.Kind]
}

// renderArguments are what the rendering of a chat itself goes by, in transformers too: as values for the template they would replace the
// chat, cut it short, or bring a template of their own.
var renderArguments = []string{
	"self", "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "padding",
	"truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens",
}

// checkTemplateArguments refuses names that are not the template's.
func checkTemplateArguments(arguments map[string]any) error {
	for _, name := range renderArguments {
		if _, given := arguments[name]; given {
			return &OptionError{Option: "TemplateArguments", Reason: fmt.Sprintf("%q is no value for the template: it says how a chat is rendered", name)}
		}
	}
	return nil
}

// DefaultGenerateOptions is greedy decoding of at most 256 tokens.
func DefaultGenerateOptions() GenerateOptions {
	return GenerateOptions{MaxTokens: 256, TopP: 1, RepetitionPenalty: 1, RepetitionContext: 20, XTCThreshold: 0.1}
}

// RandomSeed draws the seed of a request that was given none.
func RandomSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// CheckUTF8 returns ErrInvalidUTF8 for text that is not UTF-8.
func CheckUTF8(text string) error {
	if !utf8.ValidString(text) {
		return ErrInvalidUTF8
	}
	return nil
}

// notUTF8 is the error of an option whose text is not UTF-8.
func notUTF8(option string) error {
	return &OptionError{Option: option, Reason: ErrInvalidUTF8.Error(), Err: ErrInvalidUTF8}
}

// checkTexts names the first text that is not UTF-8.
func checkTexts(texts []string) error {
	for i, text := range texts {
		if err := CheckUTF8(text); err != nil {
			return fmt.Errorf("text %d: %w", i, err)
		}
	}
	return nil
}

// maxTopLogProbs keeps a mistake from sending a whole vocabulary for every token.
const maxTopLogProbs = 100

// FitsHalf reports whether bias and penalties leave logits within the range of float16, which ends at 65504. The python
// engine has the same bounds.
func (o GenerateOptions) FitsHalf() bool {
	const most, factor = 8192, 64
	size := func(v float32) float64 { return math.Abs(float64(v)) }
	for _, bias := range o.LogitBias {
		if size(bias) > most {
			return false
		}
	}
	return size(o.PresencePenalty) <= most && size(o.FrequencyPenalty)*float64(o.RepetitionContext) <= most &&
		o.RepetitionPenalty <= factor && o.RepetitionPenalty >= 1./factor
}

// CheckTop checks how many of the most likely tokens are wanted.
func CheckTop(top, vocabulary int) error {
	most := maxTopLogProbs
	if vocabulary > 0 {
		most = min(most, vocabulary)
	}
	if top < 0 || top > most {
		return &OptionError{Option: "TopLogProbs", Reason: fmt.Sprintf("%d is not between 0 and %d", top, most)}
	}
	return nil
}

// Validate checks the options for a vocabulary of the given size; 0 skips what depends on it.
func (o GenerateOptions) Validate(vocabSize int) error {
	bad := func(option, format string, args ...any) error {
		return &OptionError{Option: option, Reason: fmt.Sprintf(format, args...)}
	}
	unit := func(v float32) bool { return v >= 0 && v <= 1 }
	finite := func(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }
	switch {
	case o.MaxTokens < 1:
		return bad("MaxTokens", "%d is not positive", o.MaxTokens)
	case !(o.Temperature >= 0) || math.IsInf(float64(o.Temperature), 0):
		return bad("Temperature", "%v is not a number from 0 up", o.Temperature)
	case o.TopK < 0:
		return bad("TopK", "%d is negative", o.TopK)
	case !unit(o.TopP) || o.TopP == 0:
		return bad("TopP", "%v is not above 0 and at most 1", o.TopP)
	case !unit(o.MinP):
		return bad("MinP", "%v is not between 0 and 1", o.MinP)
	case !(o.RepetitionPenalty > 0) || math.IsInf(float64(o.RepetitionPenalty), 0):
		return bad("RepetitionPenalty", "%v is not a number above 0", o.RepetitionPenalty)
	case o.RepetitionContext < 1:
		return bad("RepetitionContext", "%d is not positive", o.RepetitionContext)
	case !finite(o.PresencePenalty):
		return bad("PresencePenalty", "%v is not a number", o.PresencePenalty)
	case !finite(o.FrequencyPenalty):
		return bad("FrequencyPenalty", "%v is not a number", o.FrequencyPenalty)
	case !unit(o.XTCProbability):
		return bad("XTC", "probability %v is not between 0 and 1", o.XTCProbability)
	case !(o.XTCThreshold >= 0 && o.XTCThreshold <= 0.5):
		return bad("XTC", "threshold %v is not between 0 and 0.5", o.XTCThreshold)
	case o.KVBits != 0 && !slices.Contains([]int{2, 3, 4, 6, 8}, o.KVBits):
		return bad("QuantizedKV", "%d bits; there are 2, 3, 4, 6 and 8", o.KVBits)
	case o.KVBits != 0 && !slices.Contains([]int{32, 64, 128}, o.KVGroupSize):
		return bad("QuantizedKV", "groups of %d; there are 32, 64 and 128", o.KVGroupSize)
	case o.KVStart < 0:
		return bad("QuantizedKV", "start %d is negative", o.KVStart)
	case o.MaxKVSize < 0 || o.MaxKVSize > 0 && o.MaxKVSize < 8:
		return bad("MaxKVSize", "%d is not 0 or at least 8", o.MaxKVSize)
	case o.KVBits != 0 && o.MaxKVSize != 0:
		return bad("MaxKVSize", "does not go with QuantizedKV")
	case o.Grammar.Kind != "" && o.IgnoreEOS:
		return bad(o.Grammar.Option(), "does not go with IgnoreEOS: the text ends where the grammar does")
	case !utf8.ValidString(o.Grammar.Text):
		return notUTF8(o.Grammar.Option())
	case o.DraftTokens < NoDraft || o.DraftTokens > 64:
		return bad("DraftTokens", "it is not between 0 and 64")
	case o.TopLogProbs < 0 || o.TopLogProbs > maxTopLogProbs:
		return bad("TopLogProbs", "%d is not between 0 and %d", o.TopLogProbs, maxTopLogProbs)
	}
	for _, stop := range o.Stop {
		if stop == "" {
			return bad("Stop", "a stop string is empty")
		}
		if !utf8.ValidString(stop) {
			return notUTF8("Stop")
		}
	}
	if len(o.Tools) > 0 {
		var tools []map[string]any
		if err := json.Unmarshal(o.Tools, &tools); err != nil {
			return bad("Tools", "not a JSON list of objects: %v", err)
		}
	}
	if err := checkTemplateArguments(o.TemplateArguments); err != nil {
		return err
	}
	if _, err := json.Marshal(o.TemplateArguments); err != nil {
		return bad("TemplateArguments", "cannot be written as JSON: %v", err)
	}
	for id, bias := range o.LogitBias {
		if !finite(bias) {
			return bad("LogitBias", "%v for token %d is not a number", bias, id)
		}
		if vocabSize > 0 && (id < 0 || int(id) >= vocabSize) {
			return bad("LogitBias", "the vocabulary of %d tokens has no id %d", vocabSize, id)
		}
	}
	if vocabSize > 0 {
		for _, id := range o.StopTokens {
			if id < 0 || int(id) >= vocabSize {
				return bad("StopTokens", "the vocabulary of %d tokens has no id %d", vocabSize, id)
			}
		}
	}
	return nil
}

// Validate checks that exactly one form of prompt is given and that its text is UTF-8.
func (p Prompt) Validate() error {
	forms := 0
	for _, set := range []bool{p.Text != "", len(p.Messages) > 0, len(p.IDs) > 0} {
		if set {
			forms++
		}
	}
	switch {
	case forms == 0:
		return ErrEmptyPrompt
	case forms > 1:
		return &OptionError{Option: "Prompt", Reason: "more than one of text, messages and ids is set"}
	case !utf8.ValidString(p.Text):
		return fmt.Errorf("prompt: %w", ErrInvalidUTF8)
	}
	for i, m := range p.Messages {
		if m.Role == "" {
			return &OptionError{Option: "Messages", Reason: fmt.Sprintf("message %d has no role", i)}
		}
		if !utf8.ValidString(m.Role) || !utf8.ValidString(m.Content) || !utf8.ValidString(m.Name) {
			return fmt.Errorf("message %d: %w", i, ErrInvalidUTF8)
		}
		for _, call := range m.ToolCalls {
			if !json.Valid(call.Function.Arguments) {
				return &OptionError{Option: "Messages", Reason: fmt.Sprintf("message %d: arguments of tool call %q are not JSON", i, call.Function.Name)}
			}
		}
	}
	return nil
}
