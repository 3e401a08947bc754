package admission

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Random operations against what a Registry promises. After every one, when all is quiet, its books must agree with who holds what, no request
// may have been served before one that asked earlier, and every request that waits must wait for something that will happen.
//
//	GO_MLX_REGISTRY_OPS=1000000 go test ./internal/admission -run Invariants
const registryOps, opsPerRegistry = 10000, 400

func TestRegistryInvariantsHoldUnderRandomOperations(t *testing.T) {
	testenv.RandomOperations(t, "GO_MLX_REGISTRY", registryOps, opsPerRegistry, newRegistryModel)
}

type registryModel struct {
	*bench
	rng    *rand.Rand
	seed   uint64
	op     string
	names  []string
	asks   []*modelAsk // that wait
	leases []*modelAsk
	joined *Memory
	claims []*Claim // of workers, waiting or held
	gone   []*Claim // Leaving, not yet released
}

type modelAsk struct {
	*asked
	name   string
	cancel context.CancelFunc
	gaveUp bool
}

func newRegistryModel(t *testing.T, rng *rand.Rand, seed uint64) testenv.World {
	sizes := map[string]int64{}
	m := &registryModel{rng: rng, seed: seed}
	for i := range 2 + rng.IntN(4) {
		name := string(rune('a' + i))
		sizes[name] = int64(20 + rng.IntN(100))
		m.names = append(m.names, name)
	}
	o := Options{Budget: int64(60 + rng.IntN(200))}
	if rng.IntN(2) == 0 {
		o.IdleTTL = time.Duration(1+rng.IntN(60)) * time.Second
	}
	m.bench = newBench(t, o, sizes)
	m.joined = m.Join("joined")
	return m
}

func (m *registryModel) any() string { return m.names[m.rng.IntN(len(m.names))] }

// pick takes a random element out of a list.
func pick[T any](rng *rand.Rand, list *[]T) T {
	i := rng.IntN(len(*list))
	x := (*list)[i]
	*list = slices.Delete(*list, i, i+1)
	return x
}

func (m *registryModel) Step() {
	switch k := m.rng.IntN(100); {
	case k < 25:
		m.op = "ask"
		ctx, cancel := context.WithCancel(m.t.Context())
		name := m.any()
		m.asks = append(m.asks, &modelAsk{asked: m.ask(ctx, name), name: name, cancel: cancel})
	case k < 45 && len(m.leases) > 0:
		m.op = "release"
		pick(m.rng, &m.leases).lease.Release()
	case k < 52 && len(m.asks) > 0:
		m.op = "give up"
		a := m.asks[m.rng.IntN(len(m.asks))]
		a.gaveUp = true
		a.cancel()
	case k < 58:
		m.op = "a model breaks, or is mended"
		var err error
		if m.rng.IntN(2) == 0 {
			err = errors.New("broken")
		}
		m.breaks(m.any(), err)
	case k < 62:
		m.op = "pin"
		_ = m.Pin(m.any(), m.rng.IntN(3) == 0)
	case k < 65:
		m.op = "unload"
		_, _ = m.Unload(m.any())
	case k < 72:
		m.op = "a worker starts"
		memory := m.joined
		if s := m.state(m.any()); s.Model != nil {
			memory = s.Model.(*fake).memory
		}
		m.claims = append(m.claims, memory.Claim(int64(1+m.rng.IntN(40)), Urgency(m.rng.IntN(3))))
	case k < 78 && len(m.claims) > 0:
		m.op = "a worker ends, or is not wanted any more"
		c := pick(m.rng, &m.claims)
		switch m.rng.IntN(3) {
		case 0:
			c.Leaving()
			m.gone = append(m.gone, c)
		case 1:
			c.Lost()
			m.claims = append(m.claims, c.memory.Claim(c.bytes, Needed))
			c.Release()
		default:
			c.Release()
		}
	case k < 81 && len(m.gone) > 0:
		m.op = "a worker is gone"
		pick(m.rng, &m.gone).Release()
	case k < 84 && len(m.claims) > 0:
		m.op = "raise"
		m.claims[m.rng.IntN(len(m.claims))].Raise(Urgency(m.rng.IntN(3)))
	case k < 87 && len(m.claims) > 0:
		m.op = "resize"
		m.claims[m.rng.IntN(len(m.claims))].Resize(int64(1 + m.rng.IntN(60)))
	case k < 91 && len(m.claims) > 0:
		m.op = "offer"
		c := m.claims[m.rng.IntN(len(m.claims))]
		switch m.rng.IntN(3) {
		case 0:
			c.Offer(nil)
		case 1:
			c.Offer(func() { c.Offer(nil) })
		default:
			c.Offer(c.Leaving)
		}
	case k < 92:
		m.op = "a model grows"
		m.grow(m.any(), int64(m.rng.IntN(60)))
	default:
		m.op = "time"
		time.Sleep(time.Duration(m.rng.ExpFloat64() * float64(3*time.Second)))
	}
}

func (m *registryModel) bad(format string, args ...any) {
	m.t.Errorf("seed %d, after %q: %s", m.seed, m.op, fmt.Sprintf(format, args...))
}

// check compares the Registry with what was done to it, when nothing is under way.
func (m *registryModel) Check() {
	m.asks = slices.DeleteFunc(m.asks, func(a *modelAsk) bool {
		select {
		case <-a.done:
		default:
			if a.gaveUp {
				m.bad("a request that gave up still waits")
			}
			return false
		}
		if a.err == nil {
			m.leases = append(m.leases, a)
		}
		return true
	})
	r := m.Registry
	r.mu.Lock()
	defer r.mu.Unlock()
	var used int64
	active := map[string]int{}
	for _, a := range m.leases {
		active[a.name]++
	}
	waiting := map[string]int{}
	for _, a := range m.asks {
		waiting[a.name]++
	}
	moving := r.measuring
	for _, x := range r.memories {
		if x.held < 0 || x.leave < 0 || x.leave > x.held {
			m.bad("%s holds %d bytes, %d of them about to be given back", x.name, x.held, x.leave)
		}
		used += x.held
		moving = moving || x.leave > 0
	}
	for _, c := range r.offers {
		if !c.held || c.leaving || c.recall == nil {
			m.bad("%s offers what it does not hold", c.memory.name)
		}
	}
	if used != r.used {
		m.bad("%d bytes are used, the models hold %d", r.used, used)
	}
	for _, e := range r.entries {
		name := e.spec.Name
		if e.active != active[name] || len(e.requests) != waiting[name] {
			m.bad("%s has %d leases and %d requests, want %d and %d", name, e.active, len(e.requests), active[name], waiting[name])
		}
		if len(e.requests) > 0 && e.phase == engine.PhaseReady && e.makesRoom == nil {
			m.bad("requests wait for %s, which is ready", name)
		}
		if len(e.requests) > 0 && e.requests[0].wait.Reason == "" {
			m.bad("a request for %s does not know what it waits for", name)
		}
		if (e.phase == engine.PhaseCold || e.phase == engine.PhaseFailed) != (e.claim != nil) && len(e.requests) > 0 {
			m.bad("requests wait for %s, which is %s, with claim %v", name, e.phase, e.claim)
		}
		if e.makesRoom != nil && (e.active == 0 || len(r.claims) == 0 || e.memory.pinned) {
			m.bad("%s makes room for %v with %d leases and %d claims", name, e.makesRoom, e.active, len(r.claims))
		}
		if e.phase == engine.PhaseLoading || e.phase == engine.PhaseClosing || e.phase == engine.PhaseReady && e.active > 0 {
			moving = true
		}
	}
	m.checkClaims(moving)
}

// checkClaims checks the queue. moving says that something is under way that will end by itself or by the caller's doing.
func (m *registryModel) checkClaims(moving bool) {
	blocked := false
	for i, c := range m.Registry.claims {
		if i > 0 {
			if before := m.Registry.claims[i-1]; before.urgency < c.urgency || before.urgency == c.urgency && before.ticket > c.ticket {
				m.bad("the queue is out of order")
			}
		}
		need := c.bytes - c.covered
		if !blocked && m.used+need <= m.options.Budget {
			m.bad("%s waits for %d bytes, and they are free", c.memory.name, need)
		}
		if c.wait.Reason == engine.WaitPinned {
			continue
		}
		blocked = true
		if !moving && c.urgency == Needed && m.timer == nil {
			m.bad("%s waits (%v), and nothing will happen", c.memory.name, c.wait)
		}
	}
}

// finish lets everything end, and closes the Registry: all that wait are served when nothing is broken or pinned.
func (m *registryModel) Finish() {
	m.op = "the end"
	for _, name := range m.names {
		m.breaks(name, nil)
		_ = m.Pin(name, false)
		m.grow(name, 0)
	}
	for _, c := range slices.Concat(m.claims, m.gone) {
		c.Release()
	}
	for range 50 {
		for _, a := range m.leases {
			a.lease.Release()
		}
		m.leases = nil
		time.Sleep(retryMost)
		synctest.Wait()
		m.Check()
		if len(m.asks) == 0 || m.t.Failed() {
			break
		}
	}
	if len(m.asks) > 0 {
		m.bad("%d requests are never served", len(m.asks))
	}
	for _, a := range m.leases {
		a.lease.Release()
	}
	m.joined.Leave()
	if err := m.Close(); err != nil {
		m.bad("close: %v", err)
	}
	synctest.Wait()
	if s := m.Stat(); s.Used != 0 || m.loaded() != 0 || len(s.Waits) != 0 {
		m.bad("%d bytes, %d models and %d waits are left", s.Used, m.loaded(), len(s.Waits))
	}
}
