package admission

import "forge.lthn.ai/core/go-mlx/engine"

// What callers of the public packages see of a Registry is defined in package engine.
type (
	Phase             = engine.ModelPhase
	Reason            = engine.WaitReason
	Wait              = engine.Wait
	WaitError         = engine.WaitError
	RetryError        = engine.RetryError
	UnknownModelError = engine.UnknownModelError
)

// Phases.
const (
	Cold    = engine.PhaseCold
	Loading = engine.PhaseLoading
	Ready   = engine.PhaseReady
	Closing = engine.PhaseClosing
	Failed  = engine.PhaseFailed
)

// Reasons to wait.
const (
	WaitLoad   = engine.WaitLoad
	WaitClose  = engine.WaitClose
	WaitDrain  = engine.WaitDrain
	WaitTurn   = engine.WaitTurn
	WaitMemory = engine.WaitMemory
	WaitPinned = engine.WaitPinned
)

// ErrClosed: the Registry was closed.
var ErrClosed = engine.ErrHostClosed
