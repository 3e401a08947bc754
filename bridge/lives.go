package bridge

import (
	"context"
	"errors"
	"slices"
	"time"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// How a pool's workers come and go.

// launch begins to start one worker, if the limits allow it now. Caller must hold p.mu.
func (p *pool) launch() bool {
	if p.closed || p.count() >= p.limits.max {
		return false
	}
	if wait := p.crashes.wait(time.Now()); wait > 0 {
		if p.crashes.broken() && p.live() == 0 {
			p.failAll(p.crashes.err(wait))
		}
		p.wake(wait)
		return false
	}
	p.nextID++
	m := &member{id: p.nextID, generation: p.generation, idle: time.Now()}
	p.members = append(p.members, m)
	p.stats.starts++
	p.lives.Go(func() { p.run(m) })
	return true
}

// run is the life of a member: it starts, serves, and ends.
func (p *pool) run(m *member) {
	w, err := p.start(p.ctx)
	p.mu.Lock()
	if err != nil {
		p.remove(m)
		if errors.Is(err, ErrBudget) {
			p.crashes.pause(time.Now())
		} else {
			p.crashes.crashed(time.Now(), err)
			p.stats.crashed++
		}
		if i := slices.IndexFunc(p.waiters, func(w *waiter) bool { return w.warm }); i >= 0 {
			p.fail(p.waiters[i], err)
		}
		if p.count() == 0 {
			p.failAll(err)
		}
		p.dispatch()
		p.mu.Unlock()
		return
	}
	m.worker = w
	if p.closed {
		m.stopping = true
		go w.stop()
	}
	p.dispatch()
	p.mu.Unlock()

	<-w.conn.done
	p.onGone()
	p.mu.Lock()
	p.countDeath(m)
	p.remove(m)
	p.dispatch()
	p.mu.Unlock()
	if m.crashed {
		p.onCrash(w.conn.failure())
	}
}

// countDeath counts a worker that ended unasked, once. The request that it served may see its end before
// the pool does, and what reads the count after that request's error must find it there. Caller must hold
// p.mu.
func (p *pool) countDeath(m *member) {
	if m.stopping || m.crashed {
		return
	}
	m.crashed = true
	p.crashes.crashed(time.Now(), m.worker.conn.failure())
	p.stats.crashed++
}

// remove takes a member out. Caller must hold p.mu.
func (p *pool) remove(m *member) {
	p.members = slices.DeleteFunc(p.members, func(x *member) bool { return x == m })
}

// wake runs dispatch and sweep after a while, or sooner if that was asked for before. Caller must hold p.mu.
func (p *pool) wake(after time.Duration) {
	at := time.Now().Add(after)
	if !p.wakes.IsZero() && p.wakes.Before(at) {
		return // what is due later is asked for again then
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.wakes = at
	p.timer = time.AfterFunc(after, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wakes = time.Time{}
		p.dispatch()
		p.sweep()
	})
}

// sweep ends workers of an older generation, and those that were idle for too long. Caller must hold
// p.mu.
func (p *pool) sweep() {
	now, next := time.Now(), time.Duration(0)
	for _, m := range slices.Clone(p.members) {
		if m.worker == nil || m.stopping || m.worker.active.Load() > 0 {
			continue
		}
		if m.generation != p.generation {
			p.retire(m)
			continue
		}
		if p.limits.idle <= 0 || p.count() <= p.limits.min {
			continue
		}
		if left := p.limits.idle - now.Sub(m.idle); left <= 0 {
			p.retire(m)
		} else if next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		p.wake(next)
	}
}

// retire ends a member without work. Caller must hold p.mu.
func (p *pool) retire(m *member) {
	m.stopping = true
	go m.worker.stop()
}

// evict ends all workers if none has work, and reports whether it did. The next request starts one.
func (p *pool) evict() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.waiters) > 0 || len(p.members) == 0 {
		return false
	}
	for _, m := range p.members {
		if m.worker == nil || m.worker.active.Load() > 0 {
			return false
		}
	}
	p.evicted = true
	for _, m := range p.members {
		if !m.stopping {
			p.stats.evicted++
			p.retire(m)
		}
	}
	return true
}

// lastUse is when the last request was over.
func (p *pool) lastUse() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// reset makes every request from now on go to workers that are started from now on, and returns when the
// first of them is ready. Requests under way end where they are.
func (p *pool) reset(ctx context.Context) error {
	p.mu.Lock()
	p.generation++
	p.crashes.reset()
	p.sweep()
	p.mu.Unlock()
	m, err := p.acquire(ctx, "", false)
	if err != nil {
		return err
	}
	p.release(m, false)
	return nil
}

// close ends every worker and returns when all are reaped.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.failAll(engine.ErrClosed)
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, m := range p.members {
		if m.worker != nil && !m.stopping {
			p.retire(m)
		}
	}
	p.mu.Unlock()
	p.cancel()
	p.lives.Wait()
}
