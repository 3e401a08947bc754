package mlx

import "forge.lthn.ai/core/go-mlx/engine"

// Types of requests and results. They are defined in package [engine], where their fields are described.
type (
	// Token is one generated token; see [engine.Token].
	Token = engine.Token
	// TokenLogProb is a token id with its log-probability; see [engine.TokenLogProb].
	TokenLogProb = engine.TokenLogProb
	// FinishReason says why a stream ended.
	FinishReason = engine.FinishReason
	// Message is one turn of a chat; see [engine.Message].
	Message = engine.Message
	// ToolCall is a call of a function; see [engine.ToolCall].
	ToolCall = engine.ToolCall
	// FunctionCall is the function and the arguments of a ToolCall; see [engine.FunctionCall].
	FunctionCall = engine.FunctionCall
	// Segment is a piece of text of one kind; see [engine.Segment].
	Segment = engine.Segment
	// SegmentKind says what a Segment is for.
	SegmentKind = engine.SegmentKind
	// Event tells of progress, or of a fault that was handled; see [engine.Event].
	Event = engine.Event
	// EventKind names an Event.
	EventKind = engine.EventKind
	// Classification is the result for one text; see [engine.Classification].
	Classification = engine.Classification
	// Calibration is a fitted temperature for probabilities, and what it changed; see [engine.Calibration].
	Calibration = engine.Calibration
	// LabelScore is one label's part of a Classification; see [engine.LabelScore].
	LabelScore = engine.LabelScore
	// ModelInfo describes a loaded model; see [engine.Info].
	ModelInfo = engine.Info
	// Metrics are figures of a loaded model at one moment; see [engine.Metrics].
	Metrics = engine.Metrics
)

// Reasons to end a stream.
const (
	FinishStop   = engine.FinishStop   // an end-of-sequence token, a stop token or a stop string
	FinishLength = engine.FinishLength // the token limit or the model's context length
)

// Kinds of segments.
const (
	SegmentNormal    = engine.SegmentNormal
	SegmentReasoning = engine.SegmentReasoning // between the model's marks of thinking
	SegmentTool      = engine.SegmentTool      // a tool call, in the model's own notation
)

// Kinds of events; see [engine.EventKind].
const (
	EventLoad    = engine.EventLoad    // weights are being loaded
	EventOutput  = engine.EventOutput  // a progress bar that the model's Python code prints
	EventPrefill = engine.EventPrefill // the prompt is being processed
	EventRestart = engine.EventRestart // a worker ended and is replaced
	EventGap     = engine.EventGap     // another worker goes on with the stream
	EventWait    = engine.EventWait    // a load, a worker or a request waits for memory
)
