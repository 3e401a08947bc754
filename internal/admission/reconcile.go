package admission

import (
	"cmp"
	"slices"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// reconcile does what the Registry's state asks for, after every change of it: it gives leases and memory to those who wait, closes
// models, says what is waited for, and sets the timer to when it has to look again. It may be called at any time and then changes
// nothing that is right already. All funcs of this file are called with r.mu held.
func (r *Registry) reconcile() {
	now := time.Now()
	r.tellCounts, r.toldSome, r.untold = !now.Before(r.toldCounts.Add(tellEvery)), false, false
	if r.closed {
		r.endAll()
	}
	for _, e := range r.entries {
		r.giveLeases(e)
		r.closeIdle(e, now)
		r.wantLoad(e)
	}
	head := r.grant(now)
	minStayEnds := r.makeRoom(head, now)
	for _, e := range r.entries {
		r.giveLeases(e) // models that no longer have to make room
		r.sayWait(e)
	}
	if r.tellCounts && r.toldSome {
		r.toldCounts = now
	}
	r.arm(now, minStayEnds)
}

// endAll fails all that wait, and closes all models, after the Registry's end.
func (r *Registry) endAll() {
	for _, c := range slices.Clone(r.claims) {
		r.withdraw(c)
		c.finish(engine.ErrHostClosed)
	}
	for _, e := range r.entries {
		e.claim = nil
		r.fail(e, engine.ErrHostClosed)
		if e.phase == engine.PhaseReady {
			r.startClosing(e, false, "")
		}
	}
}

// giveLeases gives the model to the requests that wait for it, if it is loaded and takes requests.
func (r *Registry) giveLeases(e *entry) {
	if e.phase != engine.PhaseReady || e.makesRoom != nil {
		return
	}
	for _, q := range e.requests {
		q.lease = r.lease(e)
		q.finish(nil)
	}
	e.requests = nil
}

// idleEnd is when a model that has no requests is closed.
func (r *Registry) idleEnd(e *entry) (time.Time, bool) {
	if r.options.IdleTTL <= 0 || e.phase != engine.PhaseReady || e.active > 0 {
		return time.Time{}, false
	}
	return e.lastUsed.Add(r.options.IdleTTL), true
}

func (r *Registry) closeIdle(e *entry, now time.Time) {
	if end, ok := r.idleEnd(e); ok && !now.Before(end) {
		r.startClosing(e, false, "")
	}
}

// wantLoad puts a model that is asked for and not loaded into the queue for memory, at the place of its first request. A model
// without requests is taken out of the queue.
func (r *Registry) wantLoad(e *entry) {
	if e.phase != engine.PhaseCold && e.phase != engine.PhaseFailed {
		return
	}
	switch wanted := len(e.requests) > 0; {
	case wanted && e.claim == nil:
		q := e.requests[0]
		e.claim = &Claim{waiter: newWaiter(), memory: e.memory, urgency: Needed, ticket: q.ticket, bytes: q.bytes}
		r.claims = append(r.claims, e.claim)
	case wanted:
		e.claim.ticket = min(e.claim.ticket, e.requests[0].ticket)
	case !wanted && e.claim != nil:
		r.withdraw(e.claim)
		e.claim = nil
	}
}

// isLoad reports whether the claim is that of a named model's load, which no goroutine awaits.
func (c *Claim) isLoad() bool { return c.memory.entry != nil && c.memory.entry.claim == c }

// grant gives memory to the claims in order, until one does not fit; that is returned.
func (r *Registry) grant(now time.Time) (head *Claim) {
	budget := r.options.Budget
	slices.SortStableFunc(r.claims, func(a, b *Claim) int {
		return cmp.Or(cmp.Compare(b.urgency, a.urgency), cmp.Compare(a.ticket, b.ticket))
	})
	before := &r.before // those that asked before
	before.reset()
	var fixed fixedMemory
	for _, c := range slices.Clone(r.claims) {
		if load := c.memory.load; load != nil && load != c && load.bytes > 0 { // an earlier try of the load has given its part back
			more := min(c.bytes-c.covered, load.bytes)
			load.bytes -= more
			c.covered += more
		}
		need := c.bytes - c.covered
		if budget > 0 && c.bytes > budget {
			r.refuse(c, &engine.BudgetError{What: "model " + c.memory.name, Needed: c.bytes, Used: r.used, Budget: budget, Pinned: r.fixed().with(c.memory)})
			continue
		}
		if budget <= 0 || need <= 0 || head == nil && r.used+need <= budget {
			r.admit(c, need)
			fixed = fixedMemory{} // counted anew when it is wanted
			continue
		}
		if e := c.memory.entry; c.isLoad() {
			if left := e.backOff(now); left > 0 {
				r.refuse(c, &engine.RetryError{After: left, Err: e.loadErr})
				continue
			}
		}
		wait := engine.Wait{Model: c.memory.name, Needed: need, Free: max(0, budget-r.used), Budget: budget}
		if !fixed.counted {
			fixed = r.fixed()
		}
		if fixed.with(c.memory)+need > budget {
			// Only the callers can help it, by releasing or unpinning models. Meanwhile others come first.
			wait.Reason = engine.WaitPinned
			wait.Models, wait.Others = fixed.namesWith(c.memory)
			r.sayClaim(c, wait)
			continue
		}
		if head == nil {
			head = c
			wait.Reason = engine.WaitMemory
			holders := r.holders(c)
			wait.Models, wait.Others = holders.but("")
		} else {
			wait.Reason = engine.WaitTurn
			wait.Models, wait.Others = before.but(c.memory.name)
		}
		before.add(c.memory.name)
		r.sayClaim(c, wait)
	}
	return head
}

// sayClaim tells a claim what it waits for.
func (r *Registry) sayClaim(c *Claim, w engine.Wait) {
	before := c.wait.Reason
	r.say(&c.waiter, w)
	if c.isLoad() && before != w.Reason {
		r.options.Notify(Notice{Model: c.memory.name, Kind: NoticeWait, Wait: w})
	}
}

// admit grants a claim.
func (r *Registry) admit(c *Claim, need int64) {
	r.withdraw(c)
	r.give(c.memory, need)
	c.held, c.covered = true, 0
	if c.isLoad() {
		r.startLoading(c.memory.entry, c)
		return
	}
	c.memory.lost = false
	c.finish(nil)
}

// refuse fails a claim; that of a load with all the requests that wait for it.
func (r *Registry) refuse(c *Claim, err error) {
	r.withdraw(c)
	if c.isLoad() {
		e := c.memory.entry
		e.claim = nil
		r.fail(e, err)
		return
	}
	c.finish(err)
}

// fixedMemory is the memory that models hold and do not give back, being spared from closing, with their names.
type fixedMemory struct {
	counted bool
	bytes   int64
	names   nameList
}

func (r *Registry) fixed() fixedMemory {
	f := fixedMemory{counted: true}
	for _, x := range r.memories {
		if stays := x.stays(); stays > 0 && x.spared() {
			f.bytes += stays
			f.names.add(x.name)
		}
	}
	return f
}

// with adds what m itself holds and does not give back: none of its claims can get that memory.
func (f fixedMemory) with(m *Memory) int64 {
	if m.spared() {
		return f.bytes // counted already
	}
	return f.bytes + max(0, m.stays())
}

// namesWith are the names of the models whose memory with counts.
func (f fixedMemory) namesWith(m *Memory) (names []string, others int) {
	if m.stays() > 0 {
		return f.names.plus(m.name)
	}
	return f.names.but("")
}

// spared reports whether a model is not closed for others.
func (m *Memory) spared() bool { return m.pinned || m.entry == nil }

// stays is the memory that a model holds and does not give back while it is loaded.
func (m *Memory) stays() int64 { return m.held - m.leave - m.offered }

// askBack asks for offered memory of other models than the one that needs it, until no more is missing, and returns what still is.
func (r *Registry) askBack(missing int64, head *Claim) int64 {
	for _, c := range r.offers {
		if missing <= 0 {
			break
		}
		if m := c.memory; head != nil && m == head.memory || m.entry != nil && m.entry.phase == engine.PhaseClosing {
			continue
		}
		missing -= c.bytes
		if !c.asked {
			c.asked = true
			go c.recall()
		}
	}
	return missing
}

// holders are the names of the models that hold memory a claim may get.
func (r *Registry) holders(c *Claim) (names nameList) {
	for _, x := range r.memories {
		if x.leave > 0 || x != c.memory && (x.offered > 0 || x.held > 0 && !x.spared()) {
			names.add(x.name)
		}
	}
	return names
}

// makeRoom gets memory for the first claim that waits. What is offered is asked for first. Then models are closed: those without
// requests, the one used longest ago before the others; then, if the claim is Needed, those with requests, which take no new ones from
// now on and are closed when their last one is over. Which models have to do so is decided anew every time, so that a model whose memory
// is no longer needed takes requests again. A model with requests that was loaded less than minStay ago is left alone until then; next
// is when the first of these may be told to make room.
func (r *Registry) makeRoom(head *Claim, now time.Time) (next time.Time) {
	missing, urgency, name := r.used-r.options.Budget, Growth, ""
	if head != nil && head.urgency > Spare {
		missing += head.bytes - head.covered
		urgency, name = head.urgency, head.memory.name
	}
	if r.options.Budget <= 0 {
		missing = 0
	}
	for _, m := range r.memories {
		if m.entry != nil && m.entry.phase == engine.PhaseClosing {
			missing -= m.held
		} else {
			missing -= m.leave
		}
	}
	missing = r.askBack(missing, head)
	var candidates []*entry
	for _, e := range r.entries {
		if e.phase == engine.PhaseReady && !e.memory.pinned && e.memory.held > e.memory.leave && (head == nil || e.memory != head.memory) {
			candidates = append(candidates, e)
		}
	}
	rank := func(e *entry) int {
		switch {
		case e.active == 0:
			return 0
		case e.makesRoom != nil: // it has begun to make room, so that no second model begins in its place
			return 1
		}
		return 2
	}
	slices.SortFunc(candidates, func(a, b *entry) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.use, b.use)) })
	chosen := map[*entry]bool{}
	for _, e := range candidates {
		if missing <= 0 || e.active > 0 && urgency < Needed {
			break
		}
		missing -= e.memory.stays()
		if e.active == 0 {
			r.startClosing(e, true, name)
			continue
		}
		if stays := e.readySince.Add(minStay); now.Before(stays) {
			if next.IsZero() || stays.Before(next) {
				next = stays
			}
			continue
		}
		chosen[e] = true
		if e.makesRoom == nil {
			r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeDrain, For: name})
		}
		e.makesRoom = []string{name}
	}
	for _, e := range r.entries {
		if e.makesRoom != nil && !chosen[e] {
			e.makesRoom = nil
			r.options.Notify(Notice{Model: e.spec.Name, Kind: NoticeResume})
		}
	}
	return next
}

// sayWait tells the requests for a model what they wait for.
func (r *Registry) sayWait(e *entry) {
	w := engine.Wait{Model: e.spec.Name}
	switch {
	case e.phase == engine.PhaseLoading:
		w.Reason = engine.WaitLoad
	case e.phase == engine.PhaseClosing:
		w.Reason = engine.WaitClose
	case e.phase == engine.PhaseReady:
		w.Reason, w.Models = engine.WaitDrain, e.makesRoom
	case e.claim != nil:
		w = e.claim.wait
	}
	// Any event comes here, and there may be many requests: they are gone through only if there is something to say.
	whom := e.arrived
	if e.untold || !e.said.Equal(w) {
		whom, e.said, e.untold = e.requests, w, false
	}
	for _, q := range whom {
		if q.isDone() { // it came just now, and what it wanted was there
			continue
		}
		r.say(&q.waiter, w)
		e.untold = e.untold || q.waiter.untold
	}
	e.arrived = nil
}

// arm sets the timer to the next moment at which reconcile has something to do without a change of the state.
func (r *Registry) arm(now, minStayEnds time.Time) {
	next := minStayEnds
	consider := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, e := range r.entries {
		if end, ok := r.idleEnd(e); ok {
			consider(end)
		}
	}
	if r.untold {
		consider(r.toldCounts.Add(tellEvery))
	}
	if len(r.claims) > 0 && !r.closed && !r.measuring {
		if due := r.measured.Add(measureEvery); now.Before(due) {
			consider(due)
		} else {
			r.startMeasuring()
		}
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if next.IsZero() {
		return
	}
	r.timer = time.AfterFunc(next.Sub(now), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.reconcile()
	})
}

// startMeasuring measures the loaded models on a goroutine of its own.
func (r *Registry) startMeasuring() {
	r.measuring = true
	r.work.Go(func() {
		r.measure(r.ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.measuring, r.measured = false, time.Now()
		r.reconcile()
	})
}
