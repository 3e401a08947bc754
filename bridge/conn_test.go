package bridge

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

var errClosedByTest = errors.New("ended by the test")

// What came before a reply is told before it, also where both have come before anybody looks.
func TestProgressIsToldBeforeTheReplyThatFollowsIt(t *testing.T) {
	for range 50 { // which of two that are ready is taken would be a matter of chance
		c := newConn(io.Discard)
		e, err := c.begin(&generateRequest{}, true)
		require.NoError(t, err)
		require.NoError(t, c.deliver(&message{Type: "progress", ID: e.id, Done: 1, Total: 2}))
		require.NoError(t, c.deliver(&message{Type: "progress", ID: e.id, Done: 2, Total: 2}))
		require.NoError(t, c.deliver(&message{Type: "token", ID: e.id}))
		var told []int64
		reply, err := c.next(t.Context(), e, func(p *message) { told = append(told, p.Done) })
		require.NoError(t, err)
		require.Equal(t, "token", reply.Type)
		require.Equal(t, []int64{2}, told)
	}
}

func TestAWorkerThatEndsAfterItsHelloHasSaidIt(t *testing.T) {
	for range 50 {
		w, hello := &worker{conn: newConn(io.Discard)}, make(chan *message, 1)
		hello <- &message{Type: "hello"}
		w.conn.fail(errClosedByTest)
		first, err := w.greeting(t.Context(), hello)
		require.NoError(t, err)
		require.Equal(t, "hello", first.Type)
		_, err = w.greeting(t.Context(), hello)
		require.ErrorIs(t, err, errClosedByTest)
	}
}
