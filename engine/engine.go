// Package engine holds what the native and the python engine have in common: the interface that package mlx drives, and the types of
// requests, results, events and errors. Programs use them by the names that package mlx gives them; their fields are described here.
//
// The other functions (Validate, Result, UserText, RandomSeed and the like) are for authors of an engine: checks and prompts that must be the
// same in all of them.
package engine

import (
	"context"
	"encoding/json"
	"iter"
)

// Name names an engine.
type Name string

// Engines.
const (
	Auto   Name = "auto"   // native where the architecture is supported, else python
	Native Name = "native" // in this process
	Python Name = "python" // mlx-lm workers
	None   Name = "none"   // neither can run the model
)

// Engine runs one loaded model. All methods are safe for concurrent use.
type Engine interface {
	// Generate streams the tokens that follow a prompt. The sequence ends after the token that carries
	// a FinishReason, or with one final error.
	Generate(ctx context.Context, prompt Prompt, options GenerateOptions) iter.Seq2[Token, error]
	// PromptLogProbs returns the tokens of a prompt, each with the log-probability that the model gives it after those before, and
	// the top most likely ones in its place, none for a top of 0. The first token follows nothing and has neither.
	PromptLogProbs(ctx context.Context, ids []int32, top int) ([]Token, error)
	// Classify scores every label for every text; results come in the order of texts.
	Classify(ctx context.Context, texts []string, options ClassifyOptions) ([]Classification, error)
	// Embed returns a vector for each text, all of one length.
	Embed(ctx context.Context, texts []string, options EmbedOptions) ([][]float32, error)
	// Encode returns token ids; special adds what the tokenizer puts around every text.
	Encode(ctx context.Context, text string, special bool) ([]int32, error)
	// Decode returns the text of token ids without special tokens.
	Decode(ctx context.Context, ids []int32) (string, error)
	// RenderChat applies the model's chat template and opens the assistant's turn. Only the options Tools and
	// TemplateArguments have an effect.
	RenderChat(ctx context.Context, messages []Message, options GenerateOptions) (string, error)
	// EncodeChat returns the token ids of the prompt that Generate makes of messages; PlainContent counts too.
	EncodeChat(ctx context.Context, messages []Message, options GenerateOptions) ([]int32, error)
	// Info describes the model.
	Info() Info
	// Metrics reads counters and memory figures.
	Metrics(ctx context.Context) (Metrics, error)
	// Close ends streams under way with ErrClosed and frees everything. It may be called again.
	Close() error
}

// Message is one turn of a chat.
type Message struct {
	Role    string `json:"role"` // "system", "user", "assistant" or "tool"
	Content string `json:"content"`
	// Reasoning is what the assistant thought before Content, for templates that show it.
	Reasoning string `json:"reasoning_content,omitempty"`
	// Name, ToolCallID and ToolCalls are for templates that know tools.
	Name       string     `json:"name,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
}

// ToolCall is a call of a function: one that the assistant made in an earlier turn, or that a stream made.
type ToolCall struct {
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type"` // "function"
	Function FunctionCall `json:"function"`
}

// FunctionCall is the function and the arguments of a ToolCall.
type FunctionCall struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"` // a JSON object; the order of its keys is kept
}

// Prompt is what generation starts from: exactly one of the fields is set.
type Prompt struct {
	Text     string    // raw text; the tokenizer's special tokens are added
	Messages []Message // a chat, rendered with the model's template
	IDs      []int32   // token ids, taken as they are

	// Plain encodes what spells a control token in text and messages as text, so that the author of a message cannot end its turn.
	Plain bool
}

// FinishReason says why generation ended.
type FinishReason string

// Reasons to end.
const (
	FinishStop   FinishReason = "stop"   // an end-of-sequence token, a stop token or a stop string
	FinishLength FinishReason = "length" // the token limit or the model's context length
)

// TokenLogProb is a token with its log-probability.
type TokenLogProb struct {
	ID      int32
	LogProb float32 // natural logarithm
}

// SegmentKind says what a piece of text is for.
type SegmentKind string

// Kinds of segments.
const (
	SegmentNormal    SegmentKind = "normal"
	SegmentReasoning SegmentKind = "reasoning" // between the model's marks of thinking
	SegmentTool      SegmentKind = "tool"      // a tool call, in the model's own notation
)

// Segment is a piece of text of one kind. One of kind tool comes whole, with the calls that its text makes; none, if the
// text is not in the model's notation for calls.
type Segment struct {
	Kind  SegmentKind
	Text  string
	Calls []ToolCall // without ids
}

// Token is one generated token.
type Token struct {
	ID int32
	// Text is the text that became certain with this token. It may be empty: an incomplete UTF-8
	// character and a possible beginning of a stop string are held back. The texts of a stream, joined,
	// are the whole output.
	Text string
	// LogProb is the natural logarithm of the token's probability before temperature, top-k, top-p and
	// min-p. It is set only with the LogProbs option.
	LogProb float32
	// TopLogProbs are the most likely tokens, best first, as many as the TopLogProbs option asks for.
	TopLogProbs []TokenLogProb
	// FinishReason is set on the last token of a stream and empty before.
	FinishReason FinishReason
	// StopString is, on the last token, the stop string that ended the stream; "" for every other end.
	StopString string
	// PromptTokens is the number of prompt tokens. It is set on the first token and the last.
	PromptTokens int
	// CachedTokens is how many of them the prompt cache had. It is set on the first token and the last.
	CachedTokens int
	// Segments is, with the Segments option, the text that became certain with this token by kind, without
	// the marks between kinds.
	Segments []Segment
	// CallText is, with the Segments option, the text of a tool call under way that became certain with this token, after what
	// Segments has. It comes again in the segment of the whole call: programs that show a call while it is generated read it, others can ignore it.
	CallText string `json:",omitempty"`
}

// LabelScore is a label with how well it fits.
type LabelScore struct {
	Label       string  `json:"label"`
	Score       float64 `json:"score"`       // mean log-probability of the label's tokens
	Probability float64 `json:"probability"` // softmax of the scores over the labels
}

// Classification is the result for one text.
type Classification struct {
	Label       string  `json:"label"` // the best label
	Probability float64 `json:"probability"`
	// Margin is the best probability minus the second best, 1 with a single label.
	Margin float64 `json:"margin"`
	// Abstained is set when the best label is less probable than was asked for. Label still names it.
	Abstained bool `json:"abstained,omitempty"`
	// Scores holds all labels in the order they were given.
	Scores []LabelScore `json:"scores,omitempty"`
}

// Info describes a loaded model.
type Info struct {
	Path          string // folder or file
	Source        string // what was found where, e.g. "safetensors in DIR"
	Engine        Name   // Native or Python
	Reason        string // why this engine was chosen
	Architecture  string // model_type of config.json
	Device        string // e.g. "cpu:0"
	Kernels       string // what computes: "cpu (amx, 2 threads)", "cuda", or "mlx" for MLX's own ops; empty with the python engine
	Layers        int
	HiddenSize    int    // values of a hidden state
	VocabSize     int    // token ids are below it
	ContextLength int    // largest number of prompt and generated tokens together; 0 if not known
	DType         string // type of the weights that are not quantised
	Quantization  string // e.g. "4-bit, groups of 64"; empty if not quantised
	Parameters    int64  // elements of all tensors, quantised ones counted unpacked
	WeightBytes   int64  // of the loaded weights; from Inspect, by the files' headers
	MLXVersion    string
}

// Metrics are figures of a loaded model at one moment.
type Metrics struct {
	Requests         int64 // generations and classification calls begun
	Active           int64 // of them, still under way
	PromptTokens     int64 // prompt tokens processed
	GeneratedTokens  int64
	Classified       int64 // texts classified
	DraftedTokens    int64 // native engine: tokens that the draft model proposed
	AcceptedTokens   int64 // native engine: of them, those that the model agreed with
	WeightBytes      int64 // of the model and of its draft model
	KVBytes          int64 // KV caches of streams under way
	CachedKVBytes    int64 // native engine: KV of the shared prefix of classifications, kept between calls
	ActiveBytes      int64 // MLX's own account for the process that runs the model
	CacheBytes       int64 // freed buffers that MLX keeps for reuse
	PeakBytes        int64 // largest ActiveBytes so far
	BudgetBytes      int64 // native engine: the limit that WithMemoryBudget set for ActiveBytes; 0 for none
	WiredLimitBytes  int64 // native engine on Metal: how much the system keeps resident
	LiveArrays       int64 // native engine: array handles not freed, in the whole process
	Workers          int   // python engine: worker processes alive
	PromptCacheBytes int64 // KV that WithPromptCache keeps for later requests; python engine: of one worker

	// With a shadow: texts and streams compared with the second engine, those that differ, those that it was too busy for,
	// and comparisons that failed.
	ShadowCompared, ShadowFlips, ShadowSkipped, ShadowFailed int64
}
