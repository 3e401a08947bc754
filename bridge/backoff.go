package bridge

import (
	"math/rand/v2"
	"time"
)

// backoff spaces the starts of workers that crash, or that do not come up: at once after the first time, then later and
// later, and after several in succession not at all for a while.
type backoff struct {
	crashes int
	at      time.Time // the last one
	until   time.Time
	last    error
}

const (
	backoffFirst = 100 * time.Millisecond // after the second crash in a row; doubles
	breakAfter   = 5                      // crashes in succession open the breaker
	breakPeriod  = 30 * time.Second
)

// crashed counts a crash.
func (b *backoff) crashed(now time.Time, err error) {
	b.crashes++
	b.at, b.last = now, err
	var delay time.Duration
	switch {
	case b.crashes >= breakAfter:
		delay = breakPeriod
	case b.crashes > 1:
		delay = backoffFirst << (b.crashes - 2)
		delay += rand.N(delay / 4) // so that many pools do not start at the same moment
	}
	b.until = now.Add(delay)
}

// pause lets no worker start for a moment: there was no room for one, which is no crash.
func (b *backoff) pause(now time.Time) { b.until = now.Add(backoffFirst) }

// reset forgets the crashes.
func (b *backoff) reset() { *b = backoff{} }

// forgive takes crashes back whose cause is known and gone.
func (b *backoff) forgive(crashes int) {
	if b.crashes -= crashes; b.crashes <= 0 {
		b.reset()
	} else if !b.broken() {
		b.until = time.Time{}
	}
}

// wait is how long no worker may be started.
func (b *backoff) wait(now time.Time) time.Duration { return max(0, b.until.Sub(now)) }

// broken reports whether requests should not wait for the next start.
func (b *backoff) broken() bool { return b.crashes >= breakAfter }

func (b *backoff) err(wait time.Duration) error {
	return &CrashLoopError{Crashes: b.crashes, Retry: wait, Err: b.last}
}
