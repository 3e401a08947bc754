package bridge

import (
	"context"
	"errors"
	"slices"
	"time"
)

// How a member of a pool starts and ends, and what is counted of it. Every change of the state is followed by reconcile.

// run is the life of a member: it waits for memory, starts, serves, and ends.
func (p *pool) run(ctx context.Context, m *member) {
	defer m.cancel()
	defer m.claim.Release() // deferred: first the code below claims memory for a worker in this one's place
	inst, err := p.bringUp(ctx, m)
	if err != nil {
		p.mu.Lock()
		if ctx.Err() == nil {
			m.claim.Lost()
		}
		p.remove(m)
		p.startFailed(m, err, ctx.Err() != nil && p.ctx.Err() == nil)
		p.reconcile()
		p.mu.Unlock()
		return
	}
	p.mu.Lock()
	m.instance, m.state, m.started, m.idle = inst, memberReady, time.Now(), time.Now()
	p.adopt(m)
	p.reconcile()
	p.mu.Unlock()

	<-inst.done()
	p.mu.Lock()
	p.died(m)
	p.reconcile()
	p.mu.Unlock()
	if m.crashed {
		p.onCrash(inst.failure())
	}
}

// adopt begins a new generation with a member that has other weights than those before: the model's files were changed. Otherwise one
// worker would answer with the new ones and another one with the old. Caller must hold p.mu.
func (p *pool) adopt(m *member) {
	weights := m.instance.weights()
	if weights == "" || m.generation != p.generation {
		return
	}
	if p.weights != "" && p.weights != weights {
		p.generation++
		m.generation = p.generation
	}
	p.weights = weights
}

func (p *pool) bringUp(ctx context.Context, m *member) (instance, error) {
	if err := m.claim.Await(ctx, p.onWait); err != nil {
		return nil, err
	}
	p.mu.Lock()
	m.state = memberStarting
	p.stats.starts++
	p.mu.Unlock()
	return p.start(ctx, m.claim)
}

// startFailed records that a worker did not come up; given up means that nobody wanted it any more. Caller must hold p.mu.
func (p *pool) startFailed(m *member, err error, givenUp bool) {
	if givenUp || m.generation != p.generation {
		return
	}
	for _, x := range p.members { // one that came up since then and lives shows that the earlier failures are over
		if x.state == memberReady && x.alive() && x.started.After(p.failures.at) && time.Since(x.started) >= p.infancy {
			p.failures.reset()
		}
	}
	if errors.Is(err, ErrBudget) {
		p.failures.pause(time.Now()) // there was no room for it, which is no crash
	} else if !p.closed {
		p.failures.crashed(time.Now(), err)
		p.stats.crashed++
	}
	for _, w := range p.watchers {
		w.err = err
		close(w.done)
	}
	p.watchers = nil
	if p.count() > 0 {
		return
	}
	if !errors.Is(err, ErrWorkerStopped) {
		p.failAll(err) // the next worker would fail in the same way
		return
	}
	// A request that a worker had before shows that workers can come up: it waits for the next try, as long as there are any.
	for _, w := range slices.Concat(p.waiters, p.small) {
		if w.fresh || w.ticket == 0 {
			p.withdraw(w)
			w.err = err
			close(w.granted)
		}
	}
}

// infancy is how long a worker that has done nothing yet may live and still count, when it dies, as one that did not come up.
const infancy = time.Second

// proven notes that a worker got something done: counting crashes begins anew. Counting failed starts does so only if this worker came
// up after the last of them. Caller must hold p.mu.
func (p *pool) proven(m *member) {
	m.proven = true
	p.crashes.reset()
	if m.started.After(p.failures.at) {
		p.failures.reset()
	}
}

// died records that a worker is gone; only the first call counts. Caller must hold p.mu.
func (p *pool) died(m *member) {
	if m.state == memberGone {
		return
	}
	if m.state != memberStopping {
		m.crashed = true
		m.claim.Lost()
		if m.proven || time.Since(m.started) >= p.infancy {
			p.crashes.crashed(time.Now(), m.instance.failure())
		} else {
			p.failures.crashed(time.Now(), m.instance.failure())
		}
		p.stats.crashed++
	}
	p.orphans += m.active
	p.remove(m)
}

// remove takes a member out. Caller must hold p.mu.
func (p *pool) remove(m *member) {
	m.state = memberGone
	p.members = slices.DeleteFunc(p.members, func(x *member) bool { return x == m })
}
