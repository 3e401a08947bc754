package owner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Requests that do not fit into the memory budget wait for their turn. A request whose next pass would exceed the budget gives back
// all that it holds and begins again later, from the tokens that its reader has. So no request holds memory while it waits, and two
// requests cannot wait for each other. The account of memory is MLX's, which is that of the process; so is the queue.

// turns is that queue. A request is running, or it has stalled: it waits for memory.
type turns struct {
	mu      sync.Mutex // guards what follows, and every turn
	all     []*turn    // of requests that are not over, in the order in which they came
	ends    uint64     // how often memory was given back: requests that ended or stalled
	changed chan struct{}
}

// turn is one request's place.
type turn struct {
	running bool
	tried   uint64 // ends when it was tried last
	alone   bool   // no other request ran when it was tried last
	stalls  int
	patient bool // it lost what it had computed too often: later requests do not start before it is over
	missing *engine.BudgetError
}

// A request that lost computed work maxLosses times, or stalled maxStalls times, is not overtaken any more.
const (
	maxLosses = 2
	maxStalls = 8
)

// memoryTurns is one queue for all models of the process, as MLX has one account.
var memoryTurns = &turns{changed: make(chan struct{})}

// Turns counts the requests of all models with a budget, and those of them that wait for memory.
func Turns() (requests, waiting int) {
	memoryTurns.mu.Lock()
	defer memoryTurns.mu.Unlock()
	for _, t := range memoryTurns.all {
		if t.stalls > 0 && !t.running {
			waiting++
		}
	}
	return len(memoryTurns.all), waiting
}

// arrive gives a request its place.
func (q *turns) arrive() *turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &turn{}
	q.all = append(q.all, t)
	return t
}

// leave takes a request out of the queue. It must have given back what it held.
func (q *turns) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = slices.DeleteFunc(q.all, func(x *turn) bool { return x == t })
	q.freed()
}

// freed lets waiting requests check again. Caller must hold q.mu.
func (q *turns) freed() {
	q.ends++
	q.wake()
}

// wake lets waiting requests check again. Caller must hold q.mu.
func (q *turns) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// begin starts a request if it may. Otherwise it returns a channel that is closed when it is worth asking again, how many requests that
// came earlier must go first, and how many run.
func (q *turns) begin(t *turn) (changed <-chan struct{}, earlier, running int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := true
	for _, x := range q.all {
		switch {
		case x == t:
			before = false
		case x.running:
			running++
			if before && x.patient {
				earlier++
			}
		case before && (x.stalls > 0):
			earlier++
		}
	}
	if earlier > 0 || t.stalls > 0 && q.ends == t.tried && running > 0 {
		return q.changed, earlier, running
	}
	t.running, t.tried, t.alone = true, q.ends, running == 0
	q.wake() // a later request may be next
	return nil, 0, 0
}

// stall records that a request found no memory and has given back what it held. lost says that it had computed something. It returns
// false if the request had all the memory that there is for itself: waiting would not help.
func (q *turns) stall(t *turn, lost bool, missing *engine.BudgetError) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	others := slices.ContainsFunc(q.all, func(x *turn) bool { return x != t && x.running })
	if t.alone && !others && q.ends == t.tried {
		return false
	}
	t.running, t.missing = false, missing
	if t.stalls++; lost {
		t.patient = t.patient || t.stalls >= maxLosses
	}
	t.patient = t.patient || t.stalls >= maxStalls
	q.ends++
	t.tried = q.ends // memory that the request gave back itself is no reason to try again
	q.wake()
	return true
}

// again lets a request that had all the memory for itself try once more: there is more of it now.
func (q *turns) again(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.running = false
	q.freed()
}

// InTurn runs work, which needs memory, and runs it again when there is more if that is what it failed for. work gives back all that
// it holds before it returns, and says whether it lost something that it had computed. tell is told what is waited for; it may be nil.
func (o *Owner) InTurn(ctx context.Context, tell func(engine.Event), work func() (lost bool, err error)) error {
	if o.Budget == 0 {
		_, err := work()
		return err
	}
	t := memoryTurns.arrive()
	defer memoryTurns.leave(t)
	for {
		if err := o.awaitTurn(ctx, t, tell); err != nil {
			return err
		}
		lost, err := work()
		var missing *engine.BudgetError
		if !errors.As(err, &missing) || ctx.Err() != nil {
			return err
		}
		if memoryTurns.stall(t, lost, missing) {
			continue
		}
		if o.MakeRoom == nil || !o.MakeRoom(ctx, missing.Used+missing.Needed-missing.Budget) {
			return err
		}
		memoryTurns.again(t)
	}
}

// JobInTurn is InTurn for one job of the owner thread.
func (o *Owner) JobInTurn(ctx context.Context, job func() error) error {
	return o.InTurn(ctx, nil, func() (bool, error) { return false, o.Do(ctx, job) })
}

func (o *Owner) awaitTurn(ctx context.Context, t *turn, tell func(engine.Event)) error {
	told := ""
	for {
		changed, earlier, running := memoryTurns.begin(t)
		if changed == nil {
			return nil
		}
		wait := t.wait(earlier, running)
		if tell != nil && wait != told {
			told = wait
			tell(engine.Event{Kind: engine.EventWait, Label: wait})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w, while %s", context.Cause(ctx), wait)
		case <-o.Closed:
			return engine.ErrClosed
		}
	}
}

// wait says what the request waits for.
func (t *turn) wait(earlier, running int) string {
	const mib = 1 << 20
	text := "the request waits for memory"
	if b := t.missing; b != nil {
		text = fmt.Sprintf("the request waits for %.1f MiB of memory for %s, %.1f of %.1f MiB are in use", float64(b.Needed)/mib, b.What, float64(b.Used)/mib, float64(b.Budget)/mib)
	}
	if earlier > 0 {
		return fmt.Sprintf("%s; before it: %d requests", text, earlier)
	}
	return fmt.Sprintf("%s; held by: %d requests", text, running)
}
