package admission

import (
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// NoticeKind is what happened to a model.
type NoticeKind string

// Kinds of notices.
const (
	NoticeLoad   NoticeKind = "load"   // memory was granted and the load begins
	NoticeReady  NoticeKind = "ready"  // it is loaded
	NoticeFailed NoticeKind = "failed" // a load or a close failed
	NoticeWait   NoticeKind = "wait"   // its load waits for memory
	NoticeDrain  NoticeKind = "drain"  // it takes no new requests, to make room for another model
	NoticeResume NoticeKind = "resume" // it takes requests again: the room is no longer needed
	NoticeClose  NoticeKind = "close"  // it is closed
)

// Notice is something that happened to a named model.
type Notice struct {
	Model   string
	Kind    NoticeKind
	Evicted bool          // of close: its memory was needed
	For     string        // of drain and close: the model that needs the memory, if it is one
	Bytes   int64         // of load: what was granted
	Took    time.Duration // of ready: the load
	Wait    engine.Wait   // of wait
	Err     error         // of failed
}

// State is a model at one moment.
type State struct {
	Name      string
	Phase     engine.ModelPhase
	Model     Model       // nil unless Ready; it may be closed at any time
	Err       error       // why the last load failed
	Active    int         // leases
	Waiting   int         // requests that wait for it
	Wait      engine.Wait // what the first of them waits for; zero if none waits
	Held      int64       // bytes of the budget
	LastUsed  time.Time
	Loads     int64
	Evictions int64 // times that it was closed to make room
	Pinned    bool
}

// Stat is a Registry at one moment.
type Stat struct {
	Budget, Used int64         // bytes
	Models       []State       // by name
	Waits        []engine.Wait // what waits for memory, in order
}

// Stat describes the Registry.
func (r *Registry) Stat() Stat {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Stat{Budget: r.options.Budget, Used: r.used}
	for _, e := range r.entries {
		s := State{
			Name: e.spec.Name, Phase: e.phase, Model: e.model, Active: e.active, Waiting: len(e.requests), Held: e.memory.held,
			LastUsed: e.lastUsed, Loads: e.loads, Evictions: e.evictions, Pinned: e.memory.pinned,
		}
		if e.phase == engine.PhaseFailed {
			s.Err = e.loadErr
		}
		if len(e.requests) > 0 {
			s.Wait = e.requests[0].wait
		}
		out.Models = append(out.Models, s)
	}
	for _, c := range r.claims {
		out.Waits = append(out.Waits, c.wait)
	}
	return out
}

// Held is how many bytes of the budget the model holds.
func (m *Memory) Held() int64 {
	m.registry.mu.Lock()
	defer m.registry.mu.Unlock()
	return m.held
}
