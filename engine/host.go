package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ModelPhase is what a model of a host is going through.
type ModelPhase string

// Phases of a model.
const (
	PhaseCold    ModelPhase = "cold" // not loaded
	PhaseLoading ModelPhase = "loading"
	PhaseReady   ModelPhase = "ready"
	PhaseClosing ModelPhase = "closing"
	PhaseFailed  ModelPhase = "failed" // the last load failed; the next request tries again
)

// WaitReason is why a request or a worker waits.
type WaitReason string

// Reasons to wait.
const (
	WaitLoad   WaitReason = "load"   // the model is being loaded
	WaitClose  WaitReason = "close"  // the model is being closed, and is loaded again afterwards
	WaitDrain  WaitReason = "drain"  // the model has to make room for others first
	WaitTurn   WaitReason = "turn"   // others asked for memory before
	WaitMemory WaitReason = "memory" // others hold the memory and are about to give it back
	WaitPinned WaitReason = "pinned" // models that may not be closed hold the memory
)

// Wait is what a request or a worker waits for.
type Wait struct {
	Model  string
	Reason WaitReason
	// Models are those that are waited for: they asked for memory earlier, have requests to end, are being closed, or are pinned. Of many
	// models a few are named, and Others counts the rest.
	Models []string
	Others int
	// Needed, Free and Budget are bytes. They are set for the reasons turn, memory and pinned.
	Needed int64
	Free   int64
	Budget int64
}

// String is a sentence for people, without a full stop.
func (w Wait) String() string {
	names := strings.Join(w.Models, ", ")
	if w.Others > 0 {
		names += fmt.Sprintf(" and %d others", w.Others)
	}
	switch w.Reason {
	case "":
		return ""
	case WaitLoad:
		return fmt.Sprintf("model %s is being loaded", w.Model)
	case WaitClose:
		return fmt.Sprintf("model %s is being closed and will be loaded again", w.Model)
	case WaitDrain:
		return fmt.Sprintf("model %s has to make room for %s first", w.Model, names)
	}
	text := fmt.Sprintf("model %s waits for %s of memory, %s of %s are free", w.Model, mib(w.Needed), mib(w.Free), mib(w.Budget))
	switch {
	case names == "":
		return text
	case w.Reason == WaitTurn:
		return text + "; before it: " + names
	case w.Reason == WaitPinned:
		return text + "; held by models that are not closed for others: " + names
	}
	return text + "; held by: " + names
}

// Equal reports whether two waits are for the same.
func (w Wait) Equal(other Wait) bool {
	return w.Model == other.Model && w.Reason == other.Reason && w.Others == other.Others && w.Needed == other.Needed &&
		w.Free == other.Free && w.Budget == other.Budget && slices.Equal(w.Models, other.Models)
}

func mib(bytes int64) string {
	const unit = 1 << 20
	if bytes > -unit && bytes < unit {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%d MiB", bytes/unit)
}

// ErrHostClosed: the host was closed.
var ErrHostClosed = errors.New("no more models are loaded: the host is closed")

// UnknownModelError is the error of a name that no model has.
type UnknownModelError struct {
	Name  string
	Known []string
}

func (e *UnknownModelError) Error() string {
	return fmt.Sprintf("there is no model %q; there are %s", e.Name, strings.Join(e.Known, ", "))
}

// RetryError is the error of a request for a model whose last load failed, while other models would have to be closed for the next try.
type RetryError struct {
	After time.Duration // when closing others for it is tried again
	Err   error         // of the last load
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("its last load failed, and no other model is closed for it for another %v: %v", e.After.Round(time.Second), e.Err)
}

// Unwrap is the error of the last load.
func (e *RetryError) Unwrap() error { return e.Err }

// WaitError is the error of a request whose context ended while it waited.
type WaitError struct {
	Wait Wait
	Err  error // the context's
}

func (e *WaitError) Error() string {
	if e.Wait.Reason == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v, while %v", e.Err, e.Wait)
}

// Unwrap is the context's error.
func (e *WaitError) Unwrap() error { return e.Err }
