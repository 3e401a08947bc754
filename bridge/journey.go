package bridge

import (
	"context"
	"errors"
)

// journey is one request on its way over workers. A worker's death does not end it: the next worker goes
// on with it. But a request can be what kills its workers, and then it must not kill all of them. Which
// one it was shows when it is alone: after a death every request that the worker had is given a worker
// of its own for a while, and one whose worker then dies too is quarantined.
type journey struct {
	model   *Model
	session string
	key     func() (requestKey, error) // names the request; asked for only when a worker died
	frame   request                    // what is written to the repro file
	onGap   func(error)                // told of a death that the request survives

	deaths int
	held   bool           // it was quarantined before
	made   func() []int32 // tokens made so far, for the repro file
}

const (
	// probation is how many tokens a stream makes alone after a death before it has company again. What
	// killed its worker was most likely the next pass.
	probation = 8
	// maxDeaths ends a request that always had company when its workers died.
	maxDeaths = 4
)

// run gives the request workers until one serves it.
func (j *journey) run(ctx context.Context, serve func(w *worker, share func()) error) error {
	if err := j.model.quarantine.check(j); err != nil {
		return err
	}
	for {
		m, err := j.model.pool.acquire(ctx, j.session, j.deaths > 0)
		if err != nil {
			return err
		}
		share := func() {
			if j.deaths == 1 && !j.held { // a further death keeps it alone to its end
				j.model.pool.share(m)
			}
		}
		err = serve(m.worker, share)
		died := err != nil && !m.worker.alive() && errors.Is(err, ErrWorkerStopped)
		alone := m.worker.company.Load() <= 1
		j.model.pool.release(m, err == nil)
		if err == nil && j.held {
			j.model.quarantine.release(j)
		}
		if !died || ctx.Err() != nil {
			return err
		}
		j.deaths++
		if j.deaths >= 2 && alone {
			return j.model.quarantine.add(j, err)
		}
		if j.deaths >= maxDeaths {
			return err
		}
		j.model.counters.resumed.Add(1)
		j.onGap(err)
	}
}
