package mlx

import (
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
)

// Errors to test for with errors.Is.
var (
	// ErrClosed: the model was closed.
	ErrClosed = engine.ErrClosed
	// ErrUnsupported: the engine cannot run this model, or do with it what is asked; the other engine may.
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
	// ErrHung: a Python worker made no progress and was ended.
	ErrHung = bridge.ErrHung
	// ErrBusy: all Python workers and their queue are full; try again later.
	ErrBusy = bridge.ErrBusy
	// ErrCrashLoop: Python workers crash one after the other; none is started for a while.
	ErrCrashLoop = bridge.ErrCrashLoop
	// ErrQuarantined: this request ended two Python workers and is not given to a third.
	ErrQuarantined = bridge.ErrQuarantined
	// ErrBudget: a model, or a request, would not fit into the memory budget: see Host and WithMemoryBudget.
	ErrBudget = bridge.ErrBudget
	// ErrOutOfMemory: a request needed more memory than there is.
	ErrOutOfMemory = bridge.ErrOutOfMemory
	// ErrVersion: the Python packages are not those that this program works with.
	ErrVersion = bridge.ErrVersion
	// ErrModelChanged: a stream whose worker ended cannot go on, since the model's files are not those that began it.
	ErrModelChanged = bridge.ErrModelChanged
	// ErrPlatform: the python engine does not run on this operating system.
	ErrPlatform = bridge.ErrPlatform
)

// Errors to test for with errors.As, as pointers.
type (
	// OptionError names an option that cannot be honoured.
	OptionError = engine.OptionError
	// ContextLengthError is the error of a prompt that does not fit into the model's context.
	ContextLengthError = engine.ContextLengthError
	// TokenError is the error of a token id outside the model's vocabulary, given as an id or spelt in a text.
	TokenError = engine.TokenError
	// ControlTokenError is the error of a text that spells a control token and is to be plain text, where the tokenizer has no other
	// way to write it.
	ControlTokenError = engine.ControlTokenError
	// CheckpointError lists what is wrong with a model folder's weights.
	CheckpointError = engine.CheckpointError
	// WorkerError says how a Python worker ended, with its last lines of stderr.
	WorkerError = bridge.WorkerError
	// BusyError says how full the workers and the queue are.
	BusyError = bridge.BusyError
	// CrashLoopError says when the next worker will be tried.
	CrashLoopError = bridge.CrashLoopError
	// QuarantineError names the file that holds the request.
	QuarantineError = bridge.QuarantineError
	// BudgetError says what was needed and what is free.
	BudgetError = bridge.BudgetError
	// EmbedError says why the python engine makes no vectors of a model's architecture.
	EmbedError = bridge.EmbedError
	// RemoteError is an error that Python raised.
	RemoteError = bridge.RemoteError
	// ModelChangedError says how far a stream was when its model's files had changed.
	ModelChangedError = bridge.ModelChangedError
)
