package engine

// EventKind names an Event.
type EventKind string

// Kinds of events.
const (
	EventLoad    EventKind = "load"    // Done of Total bytes of weights are loaded
	EventOutput  EventKind = "output"  // a progress bar that the model's code prints: Label, Done of Total
	EventPrefill EventKind = "prefill" // Done of Total prompt tokens are processed
	EventRestart EventKind = "restart" // a worker ended and another one takes its place: Err
	// EventGap: the worker that made the stream ended, and another one goes on after the Done tokens made
	// so far: Err. No token is lost or repeated.
	EventGap EventKind = "gap"
	// EventWait: a load, a further worker or a request waits for memory: Label says for how much, and who holds it.
	EventWait EventKind = "wait"
)

// Event tells of progress, or of a fault that was handled. The kinds say which fields are set.
type Event struct {
	Kind        EventKind
	Label       string
	Done, Total int64
	Err         error
}
