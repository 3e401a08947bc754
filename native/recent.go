package native

import (
	"slices"
	"sync"
)

// maxRecent is how many label sets are remembered: callers switch between a few of them.
const maxRecent = 16

// recent remembers the values that were used last. It is safe for concurrent use.
type recent[V any] struct {
	mu      sync.Mutex
	entries []recentEntry[V] // most recently used last
}

type recentEntry[V any] struct {
	key   string
	value V
}

func (r *recent[V]) get(key string) (value V, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.entries, func(e recentEntry[V]) bool { return e.key == key })
	if i < 0 {
		return value, false
	}
	entry := r.entries[i]
	r.entries = append(slices.Delete(r.entries, i, i+1), entry)
	return entry.value, true
}

func (r *recent[V]) put(key string, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, recentEntry[V]{key, value})
	if len(r.entries) > maxRecent {
		r.entries = slices.Delete(r.entries, 0, 1)
	}
}
