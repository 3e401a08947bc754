package openai

import (
	"container/list"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// ResponseStore keeps responses for those that go on from them, in memory and up to a number of bytes; the one that was used
// longest ago goes first.
type ResponseStore struct {
	limit int64

	mu    sync.Mutex // guards what follows
	order *list.List // of *storedResponse, the last one used in front
	byID  map[string]*list.Element
	items map[string]*list.Element // by the id of an item of the output
	bytes int64
}

type storedResponse struct {
	response     *response
	input        []inputItem
	conversation []mlx.Message // up to and with the answer
	added        []turn.Tool   // by items, so far
	changed      changes       // by items, so far
	bytes        int64
}

// NewResponseStore keeps up to limit bytes.
func NewResponseStore(limit int64) *ResponseStore {
	return &ResponseStore{limit: limit, order: list.New(), byID: map[string]*list.Element{}, items: map[string]*list.Element{}}
}

func (s *ResponseStore) get(id string) (*storedResponse, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[id]
	if !ok {
		return nil, false
	}
	s.order.MoveToFront(e)
	return e.Value.(*storedResponse), true
}

// item finds an item of a response that is kept.
func (s *ResponseStore) item(id string) (outputItem, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.items[id]
	if !ok {
		return outputItem{}, false
	}
	s.order.MoveToFront(e)
	for _, item := range e.Value.(*storedResponse).response.Output {
		if item.ID == id {
			return item, true
		}
	}
	return outputItem{}, false
}

// put keeps a response, which must not change any more.
func (s *ResponseStore) put(r *storedResponse) {
	r.conversation = slices.Clip(r.conversation)
	for _, part := range []any{r.response, r.conversation, r.added, r.changed, r.input} {
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
	e := s.order.PushFront(r)
	s.byID[r.response.ID] = e
	for _, item := range r.response.Output {
		s.items[item.ID] = e
	}
	s.bytes += r.bytes
	for s.bytes > s.limit {
		s.drop(s.order.Back())
	}
}

func (s *ResponseStore) remove(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[id]
	if ok {
		s.drop(e)
	}
	return ok
}

// drop forgets one; the caller holds the mutex.
func (s *ResponseStore) drop(e *list.Element) {
	r := s.order.Remove(e).(*storedResponse)
	delete(s.byID, r.response.ID)
	for _, item := range r.response.Output {
		delete(s.items, item.ID)
	}
	s.bytes -= r.bytes
}
