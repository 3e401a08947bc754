package bridge

import (
	"context"
	"errors"
	"sync"
)

// job is one request and the workers that it was given to, one after the other. When a worker dies, the next one goes on with the
// request. But a request can be what kills its workers, and then it must not kill all of them. A worker says which requests it is
// computing; after its death those are the suspects, and no others. A suspect is computed by the next worker in passes of its own for
// a while, so that only it can be the cause if that worker dies, too. A request that was alone in the pass that ended a second
// worker is quarantined.
type job struct {
	model   *Model
	session string
	ticket  uint64                     // its place in the pool's queue
	key     func() (requestKey, error) // names the request; asked for only when a worker died, by any goroutine
	frame   request                    // what is written to the repro file
	onGap   func(error)                // told of a death that the request survives
	made    func() []int32             // tokens made so far
	left    func() bool                // whether the reader wanted no more before the end
	weights string                     // fingerprint of what made them; "" before there are any

	dead   *slot // of the worker that died under it; it is given back when the request has another, or gives up
	deaths int   // of workers of which it was a suspect
	held   bool
}

const (
	// probation is how many tokens a suspect makes in passes of its own before it is batched again. What killed its worker was
	// most likely the next pass.
	probation = 8
	// lookback is how many tokens before the last one those passes begin: a worker computes ahead of what it sends.
	lookback = 2
	// maxDeaths ends a request that was one of several in every pass that ended a worker.
	maxDeaths = 4
	// forever is more tokens than any stream makes.
	forever = 1 << 30
)

// visit is one request on one worker.
type visit struct {
	worker      *worker
	from, until int             // between these numbers of tokens it is to have passes of its own
	begun       func(id uint64) // to be told the request's id on the worker
	works       func()          // to be told when it has got something done
	over        func()          // to be told that nothing more is wanted, if that is before serve returns; after the worker was told
}

// slot is a request's place on a worker. It is given back once, by whoever is first to do so.
type slot struct {
	pool   *pool
	member *member
	once   sync.Once
}

func (s *slot) release(served bool) { s.once.Do(func() { s.pool.release(s.member, served) }) }

// run gives the request workers until one serves it.
func (j *job) run(ctx context.Context, serve func(visit) error) error {
	q := j.model.quarantine
	if err := q.check(j); err != nil {
		return err
	}
	defer j.leaveDead()
	for {
		retry, err := j.attempt(ctx, serve)
		if err == nil {
			if j.left() { // what would have come of it is not known
				q.served()
			} else {
				q.absolve(j)
			}
			return nil
		}
		if !retry {
			return err
		}
		// An equal request may have been found guilty meanwhile.
		if err := q.check(j); err != nil {
			return err
		}
		j.model.counters.resumed.Add(1)
		j.onGap(err)
	}
}

// leaveDead gives back the slot of a worker that died. Until then the pool keeps the worker's memory for another one.
func (j *job) leaveDead() {
	if j.dead != nil {
		j.dead.release(false)
		j.dead = nil
	}
}

// attempt gives the request to one worker. The slot is given back however serve ends, also by a panic or runtime.Goexit of the
// code that reads the stream.
func (j *job) attempt(ctx context.Context, serve func(visit) error) (retry bool, err error) {
	m, err := j.model.pool.acquire(ctx, j.session, &j.ticket)
	j.leaveDead()
	if err != nil {
		return false, err
	}
	w, served, held := m.worker(), false, &slot{pool: j.model.pool, member: m}
	defer func() {
		w.leave(j)
		if retry {
			j.dead = held
			return
		}
		held.release(served)
	}()
	if err := j.model.quarantine.check(j); err != nil { // found while it waited
		return false, err
	}
	if made := len(j.made()); made == 0 {
		j.weights = w.info.Fingerprint
	} else if j.weights != w.info.Fingerprint {
		return false, &ModelChangedError{Path: j.model.path, Made: made}
	}
	from, until := j.apart()
	err = serve(visit{
		w, from, until, func(id uint64) { w.enter(j, id) }, func() { j.model.pool.works(m) },
		func() { w.leave(j); held.release(false) },
	})
	served = err == nil
	if w.alive() {
		return false, err
	}
	if ctx.Err() != nil || j.left() {
		served = false
		if !w.stopping.Load() { // its reader has gone after its worker's death: it may be what the worker died of all the same
			_, _ = j.judge(m, w, w.failure())
		}
		if errors.Is(err, ErrWorkerStopped) {
			err = ctx.Err()
		}
		return false, err
	}
	if served || !errors.Is(err, ErrWorkerStopped) {
		return false, err
	}
	return j.afterDeath(m, w, err)
}

// afterwards is what is kept of a request that was given up, in case that it is what ends its worker.
func (j *job) afterwards() *job {
	return &job{model: j.model, key: j.key, frame: j.frame, held: j.held, deaths: j.deaths, made: func() []int32 { return nil }}
}

// blameGivenUp looks, after a worker's death, for what ended it among the requests that were given up: whoever asked for one that hangs
// has gone long before the worker is ended, and asks again.
func (m *Model) blameGivenUp(w *worker) {
	if w.stopping.Load() {
		return
	}
	for j, alone := range w.suspectsGivenUp() {
		_ = j.blame(w, w, alone, w.failure()) // nobody waits for it
	}
}

// apart returns between which numbers of tokens the request is computed in passes of its own.
func (j *job) apart() (from, until int) {
	switch {
	case j.deaths == 0 && !j.held:
		return 0, 0
	case j.deaths == 1 && !j.held:
		made := len(j.made())
		return max(0, made-lookback), made + probation
	}
	return 0, forever
}

// afterDeath decides what becomes of a request whose worker died.
func (j *job) afterDeath(m *member, w *worker, cause error) (retry bool, err error) {
	suspected, err := j.judge(m, w, cause)
	if err != nil {
		return false, err
	}
	return !suspected || j.deaths < maxDeaths, cause
}

// judge looks whether the request is what its worker died of; an error ends it.
func (j *job) judge(m *member, w *worker, cause error) (suspected bool, err error) {
	suspected, alone, err := w.suspect(j)
	if err != nil {
		return suspected, errors.Join(cause, err)
	}
	if !suspected {
		return false, nil
	}
	return true, j.blame(m.instance, w, alone, cause)
}

// blame puts the death of a worker, which is the pool's instance, down to the request, as far as it explains it. An error ends the request.
func (j *job) blame(dead instance, w *worker, alone bool, cause error) error {
	explained, err := j.model.quarantine.judge(j, w, alone, cause)
	if explained > 0 {
		j.model.pool.explained(dead, explained)
	}
	return err
}

// ModelChangedError is the error of a stream that could not go on after the death of its worker, since the model's files are not those
// that made its first tokens.
type ModelChangedError struct {
	Path string
	Made int // tokens that the reader has
}

// ErrModelChanged is wrapped by ModelChangedError.
var ErrModelChanged = errors.New("model files have changed")

func (e *ModelChangedError) Error() string {
	return ErrModelChanged.Error() + ": " + e.Path + " is not what made the beginning of this stream; ask again"
}

func (e *ModelChangedError) Unwrap() error { return ErrModelChanged }
