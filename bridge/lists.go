package bridge

import (
	"context"
	"fmt"
	"maps"
	"sync"
)

// Texts are sent in requests of at most listMost, because a cancelled call stops between requests only. Where workers share a list,
// a request has at least listLeast texts, because a pass over few texts is not worth its cost.
const listMost, listLeast = 256, 32

// part is the texts of a list that one request serves.
type part struct{ from, to int }

// listChunk is how many of n texts go into one request.
func (m *Model) listChunk(n int) int {
	each := (n + m.pool.limits.max - 1) / m.pool.limits.max
	return min(max(each, listLeast), listMost)
}

// cut divides a list of n texts into parts of at most chunk texts.
func cut(n, chunk int) (list []part) {
	for from := 0; from < n; from += chunk {
		list = append(list, part{from, min(from+chunk, n)})
	}
	return list
}

// inParts has every part of a list served by a request of its own, on as many workers as there are. serve says with which weights. A list
// is served with one set of weights, also when the model is loaded anew meanwhile.
func (m *Model) inParts(ctx context.Context, list []part, serve func(context.Context, part) (weights string, err error)) error {
	weights := map[part]string{}
	for range 3 {
		if err := m.spread(ctx, list, weights, serve); err != nil {
			return err
		}
		newest := m.described.Load().fingerprint
		maps.DeleteFunc(weights, func(_ part, w string) bool { return w != newest })
		if len(weights) == len(list) {
			return nil
		}
	}
	return fmt.Errorf("%w again and again while a list was computed", ErrModelChanged)
}

// spread serves those parts that have no entry in weights yet, and enters the fingerprint of the weights that served them.
func (m *Model) spread(ctx context.Context, list []part, weights map[part]string, serve func(context.Context, part) (string, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	var mu sync.Mutex // guards weights
	limit := make(chan struct{}, m.pool.limits.max)
	for _, p := range list {
		mu.Lock()
		_, done := weights[p]
		mu.Unlock()
		if done {
			continue
		}
		limit <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		group.Go(func() {
			defer func() { <-limit }()
			by, err := serve(ctx, p)
			if err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			weights[p] = by
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
