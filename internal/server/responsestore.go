package server

import (
	"container/list"
	"encoding/json"
	"slices"
	"sync"

	mlx "forge.lthn.ai/core/go-mlx"
)

// responseStore keeps responses for those that go on from them, in memory and up to a number of bytes; the one that was used
// longest ago goes first.
type responseStore struct {
	limit int64

	mu    sync.Mutex // guards what follows
	order *list.List // of *storedResponse, the last one used in front
	byID  map[string]*list.Element
	bytes int64
}

type storedResponse struct {
	response     *response
	conversation []mlx.Message // up to and with the answer
	bytes        int64
}

func newResponseStore(limit int64) *responseStore {
	return &responseStore{limit: limit, order: list.New(), byID: map[string]*list.Element{}}
}

func (s *responseStore) get(id string) (*storedResponse, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[id]
	if !ok {
		return nil, false
	}
	s.order.MoveToFront(e)
	return e.Value.(*storedResponse), true
}

// put keeps a response, which must not change any more.
func (s *responseStore) put(r *storedResponse) {
	r.conversation = slices.Clip(r.conversation)
	for _, part := range []any{r.response, r.conversation} {
		data, err := json.Marshal(part)
		if err != nil { // it was sent as JSON
			return
		}
		r.bytes += int64(len(data))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.bytes > s.limit {
		return
	}
	s.byID[r.response.ID] = s.order.PushFront(r)
	s.bytes += r.bytes
	for s.bytes > s.limit {
		s.drop(s.order.Back())
	}
}

func (s *responseStore) remove(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[id]
	if ok {
		s.drop(e)
	}
	return ok
}

// drop forgets one; the caller holds the mutex.
func (s *responseStore) drop(e *list.Element) {
	r := s.order.Remove(e).(*storedResponse)
	delete(s.byID, r.response.ID)
	s.bytes -= r.bytes
}
