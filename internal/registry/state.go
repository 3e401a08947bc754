package registry

import (
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// State is a model at one moment.
type State struct {
	Name, Path  string
	Phase       Phase
	Done, Total int64 // bytes loaded; 0 when not known
	Err         error // why the last load failed
	Active      int   // requests
	LastUsed    time.Time
	WeightFiles int64 // bytes
	Loads       int64
	Evictions   int64
	Model       mlx.TextModel // nil unless Ready; it may be closed at any time
}

// States describes all models.
func (r *Registry) States() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []State
	for _, e := range r.entries {
		s := State{
			Name: e.Name, Path: e.Path, Phase: e.phase, Done: e.done, Total: e.total, Active: e.active, LastUsed: e.lastUsed,
			WeightFiles: e.bytes, Loads: e.loads, Evictions: e.evictions, Model: e.model,
		}
		if e.phase == Failed {
			s.Err = e.attempt.err
		}
		out = append(out, s)
	}
	return out
}

// Unload closes a model that has no requests and reports whether it did.
func (r *Registry) Unload(name string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.find(name)
	if e == nil {
		return false, &UnknownModelError{Name: name, Known: r.Names()}
	}
	if e.phase != Ready || e.active > 0 {
		return false, nil
	}
	r.startClosing(e)
	return true, nil
}
