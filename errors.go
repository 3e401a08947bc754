package mlx

import (
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// Errors to test for with errors.Is.
var (
	// ErrClosed: the model was closed.
	ErrClosed = engine.ErrClosed
	// ErrUnsupported: the native engine cannot run this model; the python engine may.
	ErrUnsupported = engine.ErrUnsupported
	// ErrInvalidUTF8: a prompt, text, label or stop string is not UTF-8.
	ErrInvalidUTF8 = engine.ErrInvalidUTF8
	// ErrEmptyPrompt: a prompt has no tokens.
	ErrEmptyPrompt = engine.ErrEmptyPrompt
	// ErrNoChatTemplate: the model has no chat template, so Chat cannot be used.
	ErrNoChatTemplate = engine.ErrNoChatTemplate
	// ErrNoPython: the python engine found no interpreter.
	ErrNoPython = bridge.ErrNoPython
	// ErrWorkerStopped: a Python worker ended before it answered.
	ErrWorkerStopped = bridge.ErrWorkerStopped
)

// Errors to test for with errors.As, as pointers.
type (
	// OptionError names an option that cannot be honoured.
	OptionError = engine.OptionError
	// ContextLengthError is a prompt that does not fit into the model's context.
	ContextLengthError = engine.ContextLengthError
	// CheckpointError lists what is wrong with a model folder's weights.
	CheckpointError = engine.CheckpointError
	// WorkerError says how a Python worker ended, with its last lines of stderr.
	WorkerError = bridge.WorkerError
	// RemoteError is an error that Python raised.
	RemoteError = bridge.RemoteError
)
