package bridge

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A program that was stopped, with its workers, finds none of them hung when it goes on; one that hangs then is found.
func TestTheTimeInWhichAProgramWasStoppedIsNoHang(t *testing.T) {
	d := newWatchdog(time.Minute, func() int64 { return 0 }, nil)
	now := time.Now()
	d.beat(&message{Phase: "decode", Work: 1})
	d.excuse(10 * time.Minute)
	now = now.Add(10 * time.Minute)
	require.NoError(t, d.check(now.Add(time.Second)))
	d.excuse(5 * time.Second) // a tick that is a little late is no reason
	err := d.check(now.Add(time.Minute + 2*time.Second))
	require.ErrorIs(t, err, ErrHung)
	require.ErrorContains(t, err, "no heartbeat for 1m2s")
}

// On a busy machine a worker's stack begins late and comes in pieces, between which others compute. A stopped worker prints none.
func TestAStackThatComesInPiecesIsAwaited(t *testing.T) {
	for name, c := range map[string]struct {
		pieces []time.Duration // when they come
		within time.Duration
	}{
		"none":      {nil, stackBegins},
		"at once":   {[]time.Duration{1}, stackQuiet + 50*time.Millisecond},
		"late":      {[]time.Duration{stackBegins - 50*time.Millisecond}, stackBegins + stackQuiet},
		"in pieces": {[]time.Duration{600 * time.Millisecond, 800 * time.Millisecond, time.Second, 1200 * time.Millisecond}, 1200*time.Millisecond + stackQuiet},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				printed := func() (n int64) {
					for _, at := range c.pieces {
						if time.Since(begin) >= at {
							n += 100
						}
					}
					return n
				}
				awaitStack(printed)
				require.EqualValues(t, 100*len(c.pieces), printed())
				require.LessOrEqual(t, time.Since(begin), c.within)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		begin, n := time.Now(), int64(0)
		awaitStack(func() int64 { n++; return n })
		require.Equal(t, stackMost, time.Since(begin), "one that never ends is not awaited for ever")
	})
}
