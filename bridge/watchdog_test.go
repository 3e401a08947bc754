package bridge

import (
	"testing"
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
