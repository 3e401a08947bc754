package admission

import (
	"context"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Urgency is what may be done to make room for a claim. More urgent claims come first, equal ones in the order in which they were
// made.
type Urgency int

const (
	// Spare takes memory that nobody else waits for, and no model is closed for it.
	Spare Urgency = iota
	// Growth is for a further worker of a model that already serves: models without requests are closed for it.
	Growth
	// Needed is for a model that cannot serve without: models with requests take no new ones, and are closed after the last one.
	Needed
)

// Memory is what one model holds of a Registry's budget.
type Memory struct {
	registry *Registry
	name     string
	entry    *entry // nil for a model that its caller loads and closes

	// Guarded by registry.mu.
	held    int64  // bytes of its granted claims
	leave   int64  // of held, what is about to be given back without anybody asking for it
	offered int64  // of held, what is given back when others need it: the sum of its claims in Registry.offers
	load    *Claim // what was granted for the load under way; the engine's claims are taken from it
	ticket  uint64 // the model's place in the queue when it was loaded
	lost    bool   // a worker died: one in its place has the model's old place in the queue
	pinned  bool
}

// Claim is memory that is asked for, and then held until Release.
type Claim struct {
	waiter
	memory  *Memory
	urgency Urgency
	ticket  uint64
	bytes   int64 // wanted, or held
	covered int64 // of bytes, what was already granted for the load under way
	held    bool
	leaving bool
	recall  func() // asks for it back; nil unless it is one of Registry.offers
	asked   bool   // recall was called
	over    bool   // released, withdrawn or failed
}

// BeginLoad waits until so many bytes are granted together. Claims made until EndLoad are taken from them, so that two models that
// need several claims each never hold some and wait for each other. tell is told what it waits for; it may be nil.
func (m *Memory) BeginLoad(ctx context.Context, bytes int64, tell func(engine.Wait)) error {
	c := m.Claim(bytes, Needed)
	if err := c.Await(ctx, tell); err != nil {
		return err
	}
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	m.load = c
	return nil
}

// EndLoad gives back what was granted for the load and not claimed.
func (m *Memory) EndLoad() {
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	m.endLoad()
	r.reconcile()
}

func (m *Memory) endLoad() {
	if c := m.load; c != nil {
		m.load = nil
		m.registry.release(c)
	}
}

// Claim asks for memory. It does not wait; the caller awaits the claim and releases it in the end, also if it was never granted.
func (m *Memory) Claim(bytes int64, urgency Urgency) *Claim {
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &Claim{waiter: newWaiter(), memory: m, urgency: urgency, bytes: bytes}
	if m.load != nil {
		c.covered = min(bytes, m.load.bytes)
		m.load.bytes -= c.covered
	}
	c.ticket = m.place(urgency)
	r.claims = append(r.claims, c)
	r.reconcile()
	return c
}

// place is the ticket of a claim that is made now.
func (m *Memory) place(urgency Urgency) uint64 {
	if m.load != nil || urgency == Needed && m.lost {
		m.lost = false
		return m.ticket
	}
	m.registry.nextTicket++
	if m.ticket == 0 {
		m.ticket = m.registry.nextTicket
	}
	return m.registry.nextTicket
}

// Await returns when the memory is granted, or with an error when it never will be or ctx ends. Then the claim is withdrawn.
func (c *Claim) Await(ctx context.Context, tell func(engine.Wait)) error {
	granted := false
	defer func() {
		if !granted { // also when tell panics, or ends its goroutine
			c.Release()
		}
	}()
	err := c.memory.registry.await(ctx, &c.waiter, tell)
	granted = err == nil
	return err
}

// Bytes is what the claim is for.
func (c *Claim) Bytes() int64 {
	c.memory.registry.mu.Lock()
	defer c.memory.registry.mu.Unlock()
	return c.bytes
}

// Raise makes a waiting claim more urgent. It then comes after all earlier claims of that urgency.
func (c *Claim) Raise(urgency Urgency) {
	r := c.memory.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.held || c.over || urgency <= c.urgency {
		return
	}
	c.urgency, c.ticket = urgency, c.memory.place(urgency)
	r.reconcile()
}

// Resize says that a granted claim holds more or less than was asked for. It is never refused: the memory is in use already. Others
// wait for it, and models without requests are closed when the budget is exceeded.
func (c *Claim) Resize(bytes int64) {
	r := c.memory.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.held || bytes == c.bytes {
		return
	}
	change := bytes - c.bytes
	r.used += change
	c.memory.held += change
	if c.leaving {
		c.memory.leave += change
	}
	if c.recall != nil {
		c.memory.offered += change
	}
	c.bytes = bytes
	r.reconcile()
}

// Leaving says that a granted claim will be released without being asked for: those who wait for memory wait for this, too.
func (c *Claim) Leaving() {
	r := c.memory.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving(c)
	r.reconcile()
}

// Offer says that a granted claim is not needed now: recall is called, once and on a goroutine of its own, when others need the memory,
// before any model is closed for them. The claim's owner then calls Leaving, or takes the offer back. Offer(nil) takes it back.
func (c *Claim) Offer(recall func()) {
	r := c.memory.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takeBackOffer(c)
	if recall != nil && c.held && !c.leaving {
		c.recall = recall
		c.memory.offered += c.bytes
		r.offers = append(r.offers, c)
	}
	r.reconcile()
}

// takeBackOffer undoes Offer. Caller must hold r.mu.
func (r *Registry) takeBackOffer(c *Claim) {
	if c.recall != nil {
		c.recall, c.asked = nil, false
		c.memory.offered -= c.bytes
		r.offers = slices.DeleteFunc(r.offers, func(x *Claim) bool { return x == c })
	}
}

// Lost is Leaving for what ended unasked, a worker that died. The next claim of the model that is Needed has the place in the queue
// that the model had when it was loaded, so that requests under way do not wait behind those that came later. Make it before Release.
func (c *Claim) Lost() {
	r := c.memory.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	c.memory.lost = c.memory.lost || c.held
	r.leaving(c)
	r.reconcile()
}

// leaving is Leaving. Caller must hold r.mu.
func (r *Registry) leaving(c *Claim) {
	r.takeBackOffer(c)
	if c.held && !c.leaving {
		c.leaving = true
		c.memory.leave += c.bytes
	}
}

// Release gives the memory back, or withdraws the claim. It may be called again.
func (c *Claim) Release() {
	r := c.memory.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(c)
	r.reconcile()
}

// release is Release. Caller must hold r.mu.
func (r *Registry) release(c *Claim) {
	if c.over {
		return
	}
	r.takeBackOffer(c)
	m := c.memory
	if c.held {
		if c.leaving {
			m.leave -= c.bytes
		}
		if m.load != nil && m.load != c {
			m.load.bytes += c.bytes // one try of a load is over, and the next one needs it
		} else {
			r.give(m, -c.bytes)
		}
	} else {
		r.withdraw(c)
		if m.load != nil {
			m.load.bytes += c.covered
		} else {
			r.give(m, -c.covered)
		}
	}
	c.held, c.over, c.covered = false, true, 0
}

// give counts bytes as held by a model, or as no longer held. Caller must hold r.mu.
func (r *Registry) give(m *Memory, bytes int64) {
	r.used += bytes
	m.held += bytes
}

// withdraw takes a claim out of the queue. Caller must hold r.mu.
func (r *Registry) withdraw(c *Claim) {
	r.claims = slices.DeleteFunc(r.claims, func(x *Claim) bool { return x == c })
}

// Leave ends what Join began. Everything that was claimed must have been released.
func (m *Memory) Leave() {
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memories = slices.DeleteFunc(r.memories, func(x *Memory) bool { return x == m })
	r.reconcile()
}
