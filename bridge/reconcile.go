package bridge

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// reconcile does what the pool's state asks for, after every change of it: slots are granted, workers are ended and started, and
// the timer is set to when that has to be looked at again. It may be called at any time and then changes nothing that is
// right already. All funcs of this file are called with p.mu held, but for giveUp, which takes it.
func (p *pool) reconcile() {
	now := time.Now()
	if p.closed {
		p.failAll(engine.ErrClosed)
	}
	p.grant()
	p.retire(now)
	p.offer(now)
	p.launch(now)
	p.arm(now)
}

// grant gives workers to those who wait.
func (p *pool) grant() {
	for len(p.waiters) > 0 {
		w := p.waiters[0]
		m := p.pick(w)
		if m == nil {
			break // who came later has no better chance
		}
		m.active++
		w.member = m
		p.withdraw(w)
		close(w.granted)
	}
	if m := p.pickSmall(); m != nil {
		for _, w := range p.small {
			w.member = m
			close(w.granted)
		}
		p.small = nil
	}
	ready := 0
	for _, m := range p.members {
		if m.state == memberReady && m.generation == p.generation {
			ready++
		}
	}
	p.watchers = slices.DeleteFunc(p.watchers, func(w *watcher) bool {
		// A watcher of an older generation is served by a newer one, too.
		if ready < w.n {
			return false
		}
		close(w.done)
		return true
	})
}

// pick chooses a worker for a request; nil if it has to wait.
func (p *pool) pick(w *waiter) *member {
	var best, home *member
	var weight uint64
	for _, m := range p.members {
		if m.state != memberReady || m.generation != p.generation || !m.alive() {
			continue
		}
		if w.session != "" {
			// The worker of a session is the one with the highest hash of both: no table to keep, and
			// when a worker goes only its own sessions move.
			if h := maphash.Comparable(sessionSeed, sessionKey{w.session, m.id}); home == nil || h > weight {
				home, weight = m, h
			}
		}
		if m.active < p.limits.rows && (best == nil || m.active < best.active) {
			best = m
		}
	}
	if home != nil && home.active < p.limits.rows {
		return home
	}
	return best
}

var sessionSeed = maphash.MakeSeed()

type sessionKey struct {
	session string
	member  uint64
}

// pickSmall chooses a worker for small calls: of those that will not end soon, the one with the fewest requests.
func (p *pool) pickSmall() *member {
	var best *member
	for _, m := range p.members {
		if (m.state == memberReady || m.state == memberDraining) && m.alive() &&
			(best == nil || m.state < best.state || m.state == best.state && m.active < best.active) {
			best = m
		}
	}
	return best
}

// retire ends workers that are no longer wanted: of an older generation, or idle for too long; and starts that nobody waits for any
// more and that have no memory yet.
func (p *pool) retire(now time.Time) {
	for _, m := range p.members {
		switch m.state {
		case memberWaiting:
			if p.closed || m.generation != p.generation || p.needed() < p.count() && p.surplus(m) {
				m.cancel()
			}
		case memberStarting:
			if p.closed {
				m.cancel()
			}
		case memberReady:
			if at, ok := p.expiry(m); p.closed || m.generation != p.generation || ok && !now.Before(at) {
				m.state = memberDraining
				m.claim.Leaving()
			}
		}
		// At the pool's end requests are ended with their workers.
		if m.state == memberDraining && (m.active == 0 || p.closed) {
			m.state = memberStopping
			go m.instance.stop()
		}
	}
}

// offer tells which members may end at once if another model needs their memory: idle ones beyond those that are to be kept.
func (p *pool) offer(now time.Time) {
	spare := p.count() - p.least()
	for _, m := range p.members {
		idle := m.state == memberReady && m.active == 0 && m.generation == p.generation && spare > 0 && len(p.watchers) == 0 && !p.closed &&
			!now.Before(m.instance.busyUntil())
		if idle {
			spare--
		}
		switch {
		case idle && !m.offered:
			m.claim.Offer(func() { p.giveUp(m) })
		case !idle && m.offered && m.state == memberReady:
			m.claim.Offer(nil)
		}
		m.offered = idle
	}
}

// giveUp ends a member whose memory another model needs, if it is still spare. The Registry calls it without its own lock.
func (p *pool) giveUp(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.offered && m.state == memberReady && m.active == 0 {
		m.state, m.offered = memberDraining, false
		m.claim.Leaving()
	}
	p.reconcile()
}

// expiry is when a member ends if no request comes.
func (p *pool) expiry(m *member) (time.Time, bool) {
	if p.limits.idle <= 0 || m.active > 0 || m.state != memberReady || p.count() <= p.least() || len(p.watchers) > 0 {
		return time.Time{}, false
	}
	at := m.idle.Add(p.limits.idle)
	if busy := m.instance.busyUntil(); busy.After(at) {
		at = busy
	}
	return at, true
}

// least is how many members stay even if they have nothing to do. A request whose worker died will come back, if only to find its context
// ended: without a member another one would be started for it.
func (p *pool) least() int {
	if p.orphans > 0 {
		return max(1, p.limits.min)
	}
	return p.limits.min
}

// needed is how many members the pool should have now, as far as its limits allow.
func (p *pool) needed() int {
	n := p.least()
	for _, w := range p.watchers {
		n = max(n, w.n)
	}
	if len(p.waiters) > 0 { // all that serve are full: one more, and the next one when that is ready
		n = max(n, p.serving()+1)
	}
	if len(p.small) > 0 {
		n = max(n, 1)
	}
	return min(n, p.limits.max)
}

// surplus reports whether a member that waits for memory is the one to give up.
func (p *pool) surplus(m *member) bool {
	for i := len(p.members) - 1; i >= 0; i-- {
		if x := p.members[i]; x.state == memberWaiting && x.generation == p.generation {
			return x == m
		}
	}
	return false
}

// count is the number of members that serve this generation or will; serving, of those that do.
func (p *pool) count() int {
	n := 0
	for _, m := range p.members {
		if m.generation == p.generation && m.state <= memberReady {
			n++
		}
	}
	return n
}

func (p *pool) serving() int {
	n := 0
	for _, m := range p.members {
		if m.generation == p.generation && m.state == memberReady {
			n++
		}
	}
	return n
}

// launch starts workers that are missing.
func (p *pool) launch(now time.Time) {
	for !p.closed && p.count() < p.needed() {
		if wait, b := p.startsIn(now); wait > 0 {
			if b.broken() && p.live() == 0 {
				p.failAll(b.err(wait))
			}
			return
		}
		p.nextID++
		ctx, cancel := context.WithCancel(p.ctx)
		m := &member{id: p.nextID, generation: p.generation, idle: now, cancel: cancel}
		p.members = append(p.members, m)
		m.claim = p.claim(p.urgency(m))
		p.lives.Go(func() { p.run(ctx, m) })
	}
	for _, m := range p.members {
		if m.state == memberWaiting && m.generation == p.generation {
			m.claim.Raise(p.urgency(m))
		}
	}
}

// urgency is what may be done to make room for a member that has no memory yet.
func (p *pool) urgency(m *member) admission.Urgency {
	for _, x := range p.members {
		if x == m {
			break
		}
		if x.generation == p.generation && x.state <= memberReady {
			return admission.Growth
		}
	}
	switch {
	case len(p.waiters) > 0 || len(p.watchers) > 0 || p.orphans > 0:
		return admission.Needed
	case p.limits.min > 0:
		return admission.Growth
	}
	return admission.Spare // only small calls want it
}

// startsIn is how long no worker may be started, and because of what.
func (p *pool) startsIn(now time.Time) (time.Duration, *backoff) {
	b := &p.failures
	if p.crashes.wait(now) > b.wait(now) {
		b = &p.crashes
	}
	return b.wait(now), b
}

// arm sets the timer to the next moment at which reconcile has something to do without a change of the state.
func (p *pool) arm(now time.Time) {
	var next time.Time
	consider := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, m := range p.members {
		if at, ok := p.expiry(m); ok {
			consider(at)
		}
		if m.state == memberReady && m.active == 0 && !m.offered {
			if at := m.instance.busyUntil(); at.After(now) { // then it can be offered
				consider(at)
			}
		}
	}
	if !p.closed && p.count() < p.needed() {
		if wait, _ := p.startsIn(now); wait > 0 {
			consider(now.Add(wait))
		}
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if next.IsZero() {
		return
	}
	p.timer = time.AfterFunc(next.Sub(now), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reconcile()
	})
}

// withdraw forgets a waiter. The queue may be long, so it is not looked through.
func (p *pool) withdraw(w *waiter) {
	if w.ticket == 0 {
		p.small = slices.DeleteFunc(p.small, func(x *waiter) bool { return x == w })
		return
	}
	at, found := p.place(w.ticket)
	switch {
	case !found:
		return
	case at == 0:
		p.waiters[0] = nil
		p.waiters = p.waiters[1:]
	default:
		p.waiters = slices.Delete(p.waiters, at, at+1)
	}
	if w.fresh {
		p.fresh--
	}
}

// place is where in the queue a ticket is, or would be.
func (p *pool) place(ticket uint64) (int, bool) {
	return slices.BinarySearchFunc(p.waiters, ticket, func(x *waiter, t uint64) int { return cmp.Compare(x.ticket, t) })
}

// failAll ends all waiting with an error.
func (p *pool) failAll(err error) {
	for _, w := range slices.Concat(p.waiters, p.small) {
		w.err = err
		close(w.granted)
	}
	for _, w := range p.watchers {
		w.err = err
		close(w.done)
	}
	p.waiters, p.fresh, p.small, p.watchers = nil, 0, nil, nil
}
