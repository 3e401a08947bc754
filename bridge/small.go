package bridge

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/engine"
)

// smallTries is how many workers a small call is given to: the first may end, being idle or killed.
const smallTries = 3

// small gives a call that computes next to nothing to any worker, without a slot: see pool.anyWorker. It is not quarantined. If it is what
// the second worker computed when it ended, too, it gets no third one, and the deaths are put down to it.
func (m *Model) small(ctx context.Context, r request) (*message, error) {
	for try, deaths := 1, 0; ; try++ {
		member, err := m.pool.anyWorker(ctx)
		if err != nil {
			return nil, err
		}
		w := member.worker()
		reply, err := w.conn.call(ctx, r, nil)
		if err == nil {
			m.quarantine.servedSmall()
		}
		if err == nil || w.alive() || ctx.Err() != nil {
			return reply, err
		}
		ended := w.stopping.Load() // by the pool, of which the call is no cause
		if try == smallTries {
			if ended && errors.Is(err, engine.ErrClosed) && !m.pool.isClosed() {
				err = &WorkerError{State: "ended as idle, like those before it, while a call was under way that keeps no worker; a longer IdleTTL leaves it more time"}
			}
			return nil, err
		}
		if !ended && w.conn.computed(r.header().ID) {
			deaths++
		}
		if deaths == 2 {
			if m.quarantine.smallCulprit() {
				m.pool.explained(w, deaths)
			}
			return nil, err
		}
	}
}
