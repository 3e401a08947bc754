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

// admit sets bytes aside for a worker of a model, ends idle workers of other models if it must, and waits
// until there is room.
func (s *Supervisor) admit(ctx context.Context, m *Model, bytes int64) error {
	for {
		s.mu.Lock()
		if s.budget <= 0 || s.used+bytes <= s.budget {
			s.used += bytes
			s.mu.Unlock()
			return nil
		}
		var pinned int64
		others := slices.DeleteFunc(slices.Clone(s.models), func(x *Model) bool {
			if x != m && x.pinned.Load() {
				pinned += x.reserved.Load()
			}
			return x == m || x.pinned.Load()
		})
		if bytes+pinned+m.reserved.Load() > s.budget {
			err := &BudgetError{What: "a worker", Needed: bytes, Used: s.used, Budget: s.budget, Pinned: pinned}
			s.mu.Unlock()
			return err
		}
		changed := s.changed
		s.mu.Unlock()

		slices.SortFunc(others, func(a, b *Model) int { return a.pool.lastUse().Compare(b.pool.lastUse()) })
		for _, victim := range others {
			if victim.pool.evict() {
				break
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
