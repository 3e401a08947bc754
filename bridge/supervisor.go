package bridge

import (
	"context"
	"slices"
	"sync"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// Supervisor shares a budget of memory among models. A worker is started only if what its weights will
// need fits; to make room, models without work end their workers, the one that was used longest ago
// first. Such a model stays usable: its next request starts a worker again. It is safe for concurrent
// use.
type Supervisor struct {
	budget int64

	mu      sync.Mutex // guards what follows
	used    int64
	models  []*Model
	changed chan struct{} // closed and replaced when memory or a model may have become free
}

// NewSupervisor returns a supervisor with a budget in bytes for the weights and prompt caches of all its
// models' workers; 0 sets no limit.
func NewSupervisor(budget int64) *Supervisor {
	return &Supervisor{budget: budget, changed: make(chan struct{})}
}

// SupervisorStat is a Supervisor at one moment.
type SupervisorStat struct {
	Budget int64 // bytes; 0 for no limit
	Used   int64 // bytes that the workers alive were expected to need
	Models []Stat
}

// Stat describes the supervisor and all its models.
func (s *Supervisor) Stat() SupervisorStat {
	s.mu.Lock()
	stat := SupervisorStat{Budget: s.budget, Used: s.used}
	models := slices.Clone(s.models)
	s.mu.Unlock()
	for _, m := range models {
		stat.Models = append(stat.Models, m.Stat())
	}
	return stat
}

// Close closes all models.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	models := slices.Clone(s.models)
	s.mu.Unlock()
	var group sync.WaitGroup
	for _, m := range models {
		group.Go(func() { _ = m.Close() })
	}
	group.Wait()
	return nil
}

func (s *Supervisor) add(m *Model) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.models = append(s.models, m)
}

func (s *Supervisor) remove(m *Model) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.models = slices.DeleteFunc(s.models, func(x *Model) bool { return x == m })
}

// fits returns an error if workers that need so many bytes together can never run beside what is pinned.
func (s *Supervisor) fits(m *Model, bytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, pinned := s.others(m); s.budget > 0 && bytes+pinned > s.budget {
		return &BudgetError{What: "a worker", Needed: bytes, Used: s.used, Budget: s.budget, Pinned: pinned}
	}
	return nil
}

// others are the models that may have to make room for m, and the bytes of those that may not. Caller must hold s.mu.
func (s *Supervisor) others(m *Model) (models []*Model, pinned int64) {
	for _, x := range s.models {
		switch {
		case x == m:
		case x.pinned.Load():
			pinned += x.reserved.Load()
		default:
			models = append(models, x)
		}
	}
	return models, pinned
}

// admit sets bytes aside for a worker of a model and waits until there is room. The model's own workers may be on their way out,
// so what they have counts as room to come. While it is not polite, idle workers of other models are ended.
func (s *Supervisor) admit(ctx context.Context, m *Model, bytes int64, polite func() bool) error {
	for {
		if err := s.fits(m, bytes); err != nil {
			return err
		}
		s.mu.Lock()
		if s.budget <= 0 || s.used+bytes <= s.budget {
			s.used += bytes
			s.mu.Unlock()
			return nil
		}
		others, _ := s.others(m)
		changed := s.changed
		s.mu.Unlock()

		if !polite() {
			slices.SortFunc(others, func(a, b *Model) int { return a.pool.lastUse().Compare(b.pool.lastUse()) })
			for _, victim := range others {
				if victim.pool.evict() {
					break
				}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// release gives back what admit had set aside.
func (s *Supervisor) release(bytes int64) {
	s.mu.Lock()
	s.used -= bytes
	s.mu.Unlock()
	s.notify()
}

// notify wakes those who wait for room.
func (s *Supervisor) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// checkpointBytes is what loading a folder's weights will need.
func checkpointBytes(dirs ...string) int64 {
	var total int64
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		total += modelfiles.Bytes(dir, "*.safetensors")
	}
	return total
}
