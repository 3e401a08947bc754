package owner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Requests that do not fit into the memory budget wait for their turn. A request whose next pass would exceed the budget gives back
// all that it holds and begins again later, from the tokens that its reader has. So no request holds memory while it waits, and two
// requests cannot wait for each other. The account of memory is MLX's, which is that of the process; so is the queue.

// turns is that queue. A request is running, or it has stalled and waits for memory, or it is fresh and waits because earlier ones do.
// Every change of it is followed by settle, which begins those that may begin, and looks at no others: a long queue costs what a short
// one does.
type turns struct {
	mu       sync.Mutex // guards what follows, and every turn
	requests int        // that are not over
	next     uint64
	running  int
	patient  []*turn // of those that run: before these are over, no later one begins
	stalled  []*turn // in the order in which they came
	fresh    []*turn // that have asked to begin, and have not begun before; in the order in which they came
	ends     uint64  // how often memory was given back: requests that ended or stalled
}

// turn is one request's place.
type turn struct {
	place   uint64
	granted chan struct{} // of capacity 1: it may begin
	asks    bool          // it waits for that
	running bool
	left    bool
	tried   uint64 // ends when it was tried last
	alone   bool   // no other request ran when it was tried last
	stalls  int
	patient bool // it lost what it had computed too often: later requests do not start before it is over
	missing *engine.BudgetError
}

// A request that stalled so often, after it had computed something or at all, is not overtaken any more.
const (
	maxLosses = 2
	maxStalls = 8
)

// memoryTurns is one queue for all models of the process, as MLX has one account.
var memoryTurns = &turns{}

// Turns counts the requests of all models with a budget, and those of them that wait for memory.
func Turns() (requests, waiting int) {
	memoryTurns.mu.Lock()
	defer memoryTurns.mu.Unlock()
	return memoryTurns.requests, len(memoryTurns.stalled)
}

// arrive gives a request its place.
func (q *turns) arrive() *turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.requests++
	q.next++
	return &turn{place: q.next, granted: make(chan struct{}, 1)}
}

// leave takes a request out of the queue. It must have given back what it held. It may be called again.
func (q *turns) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.left {
		return
	}
	switch {
	case t.running:
		q.stop(t)
	case t.stalls > 0:
		remove(&q.stalled, t)
	case t.asks:
		remove(&q.fresh, t)
	}
	t.left, t.asks = true, false
	q.requests--
	q.ends++
	q.settle()
}

// ask lets a request begin as soon as it may: then t.granted is written to.
func (q *turns) ask(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.left {
		return // its context has ended
	}
	if t.asks = true; t.stalls == 0 {
		insert(&q.fresh, t)
	}
	q.settle()
}

// settle begins the requests that may begin, after every change. Caller must hold q.mu.
func (q *turns) settle() {
	for {
		before := uint64(math.MaxUint64) // only who came earlier may begin
		for _, x := range q.patient {
			before = min(before, x.place)
		}
		var x *turn
		from := &q.fresh
		if len(q.fresh) > 0 {
			x = q.fresh[0]
		}
		if len(q.stalled) > 0 && (x == nil || q.stalled[0].place < x.place) {
			x, from = q.stalled[0], &q.stalled
			if !x.asks || q.ends == x.tried && q.running > 0 {
				return // nothing was given back since, and nobody overtakes it
			}
		}
		if x == nil || x.place > before {
			return
		}
		remove(from, x)
		x.asks, x.running, x.tried, x.alone = false, true, q.ends, q.running == 0
		if q.running++; x.patient {
			q.patient = append(q.patient, x)
		}
		x.granted <- struct{}{}
	}
}

// stop counts a running request as one that no longer runs. Caller must hold q.mu.
func (q *turns) stop(t *turn) {
	t.running = false
	q.running--
	q.patient = slices.DeleteFunc(q.patient, func(x *turn) bool { return x == t })
}

// insert and remove keep a list in the order of places.
func insert(list *[]*turn, t *turn) {
	at, _ := find(*list, t.place)
	*list = slices.Insert(*list, at, t)
}

func remove(list *[]*turn, t *turn) {
	switch at, found := find(*list, t.place); {
	case found && at == 0:
		(*list)[0] = nil
		*list = (*list)[1:]
	case found:
		*list = slices.Delete(*list, at, at+1)
	}
}

func find(list []*turn, place uint64) (int, bool) {
	return slices.BinarySearchFunc(list, place, func(x *turn, place uint64) int { return cmp.Compare(x.place, place) })
}

// stall records that a request found no memory and has given back what it held. lost says that it had computed something. It returns
// false if the request had all the memory that there is for itself: waiting would not help.
func (q *turns) stall(t *turn, lost bool, missing *engine.BudgetError) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.left {
		return true // its context has ended, which is what it is told next
	}
	if t.alone && q.running == 1 && q.ends == t.tried {
		return false
	}
	q.stop(t)
	t.missing = missing
	if t.stalls++; lost {
		t.patient = t.patient || t.stalls >= maxLosses
	}
	t.patient = t.patient || t.stalls >= maxStalls
	insert(&q.stalled, t)
	q.ends++
	t.tried = q.ends // memory that the request gave back itself is no reason to try again
	q.settle()
	return true
}

// again lets a request that had all the memory for itself try once more: there is more of it now.
func (q *turns) again(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.left {
		return
	}
	if q.stop(t); t.stalls > 0 {
		insert(&q.stalled, t)
	}
	q.ends++
	q.settle()
}

// wait says what the request waits for.
func (q *turns) wait(t *turn) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	earlier, _ := find(q.stalled, t.place)
	for _, x := range q.patient {
		if x.place < t.place {
			earlier++
		}
	}
	return t.text(earlier, q.running)
}

// InTurn runs work, which needs memory, and runs it again when there is more if that is what it failed for. work gives back all that
// it holds before it returns, and says whether it lost something that it had computed. If it cannot return, since its caller does
// something else, it calls over when ctx has ended and all is given back: others need not wait for it then. tell is told what is
// waited for; it may be nil.
func (o *Owner) InTurn(ctx context.Context, tell func(engine.Event), work func(over func()) (lost bool, err error)) error {
	if o.Budget == 0 {
		_, err := work(func() {})
		return err
	}
	t := memoryTurns.arrive()
	over := func() { memoryTurns.leave(t) }
	defer over()
	for {
		if err := o.awaitTurn(ctx, t, tell); err != nil {
			return err
		}
		lost, err := work(over)
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
	return o.InTurn(ctx, nil, func(func()) (bool, error) { return false, o.Do(ctx, job) })
}

// tellEvery is how often a request that waits is told that something has changed.
const tellEvery = time.Second

func (o *Owner) awaitTurn(ctx context.Context, t *turn, tell func(engine.Event)) error {
	q := memoryTurns
	q.ask(t)
	select {
	case <-t.granted:
		return nil
	default:
	}
	var changed <-chan time.Time
	if tell != nil {
		ticker := time.NewTicker(tellEvery)
		defer ticker.Stop()
		changed = ticker.C
	}
	for told := ""; ; {
		if tell != nil {
			if wait := q.wait(t); wait != told {
				told = wait
				tell(engine.Event{Kind: engine.EventWait, Label: wait})
			}
		}
		select {
		case <-t.granted:
			return nil
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w, while %s", context.Cause(ctx), q.wait(t))
		case <-o.Closed:
			return engine.ErrClosed
		}
	}
}

// text says what the request waits for.
func (t *turn) text(earlier, running int) string {
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
