package score

import (
	"slices"
	"sync"
)

// maxRecent is how many label sets are remembered: callers switch between a few of them.
const maxRecent = 16

// recent remembers the values that were used last. It is safe for concurrent use.
type recent[V any] struct {
	mu      sync.Mutex
	Entries []recentEntry[V] // most recently used last
}

type recentEntry[V any] struct {
	key   string
	Value V
}

func (r *recent[V]) get(key string) (value V, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.Entries, func(e recentEntry[V]) bool { return e.key == key })
	if i < 0 {
		return value, false
	}
	entry := r.Entries[i]
	r.Entries = append(slices.Delete(r.Entries, i, i+1), entry)
	return entry.Value, true
}

func (r *recent[V]) put(key string, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Entries = append(r.Entries, recentEntry[V]{key, value})
	if len(r.Entries) > maxRecent {
		r.Entries = slices.Delete(r.Entries, 0, 1)
	}
}
