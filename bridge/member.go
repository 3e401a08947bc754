package bridge

import (
	"context"
	"time"

	"forge.lthn.ai/core/go-mlx/internal/admission"
)

// instance is what a pool keeps: a worker process, or in tests something without one.
type instance interface {
	done() <-chan struct{} // closed when it is gone
	failure() error        // why it is gone
	stop()                 // ends it the gentle way and returns when it is gone
	weights() string       // names what it has loaded; "" if it does not say
	// busyUntil is until when it may be at work for requests that were given up, and is no idle one; zero, or past, if it is not. If
	// it is through with them sooner, pool.settled is called.
	busyUntil() time.Time
}

// memberState is what a member of a pool goes through, in this order; states may be left out.
type memberState int

const (
	memberWaiting  memberState = iota // waits until there is memory for it
	memberStarting                    // its process starts and loads
	memberReady                       // takes requests
	memberDraining                    // takes no more requests; those under way go on
	memberStopping                    // its end was asked for; no request is under way
	memberGone                        // no longer in the pool
)

func (s memberState) String() string {
	return [...]string{"waiting", "starting", "ready", "draining", "stopping", "gone"}[s]
}

// member is a place in the pool. Its fields are guarded by the pool's mutex, but for id, claim and, once it is ready, instance, which do
// not change.
type member struct {
	id         uint64
	generation int
	instance   instance         // nil before it is ready
	claim      *admission.Claim // its memory
	cancel     context.CancelFunc

	state   memberState
	active  int // requests under way; they hold slots
	served  int64
	started time.Time // when it became ready
	idle    time.Time // end of its last request
	proven  bool      // it has got something done
	crashed bool      // it ended unasked
	offered bool      // it goes when others need its memory
}

// worker is the member's process; only for members that were granted.
func (m *member) worker() *worker { return m.instance.(*worker) }

// alive reports whether the instance has not ended; the pool may not have noticed yet.
func (m *member) alive() bool {
	if m.instance == nil {
		return false
	}
	select {
	case <-m.instance.done():
		return false
	default:
		return true
	}
}
