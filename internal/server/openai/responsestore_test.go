package openai

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

func TestStoredResponsesAreBounded(t *testing.T) {
	store := NewResponseStore(10_000)
	for i := range 100 {
		store.put(&storedResponse{response: &response{ID: fmt.Sprint(i), Model: strings.Repeat("x", 500)}})
		store.get("0") // is used, so it stays
	}
	require.LessOrEqual(t, store.bytes, int64(10_000))
	require.Less(t, store.order.Len(), 20)
	require.Len(t, store.byID, store.order.Len())
	_, kept := store.get("0")
	require.True(t, kept)
	_, kept = store.get("50")
	require.False(t, kept)
	store.put(&storedResponse{response: &response{ID: "huge", Model: strings.Repeat("x", 20_000)}})
	_, kept = store.get("huge")
	require.False(t, kept)
	for id := range store.byID {
		require.True(t, store.remove(id))
	}
	require.Zero(t, store.bytes)
}

// deaf is a client that goes away before the event of that name.
type deaf struct{ before string }

func (d deaf) Send(name string, _ any) error {
	if name == d.before {
		return errors.New("the client is gone")
	}
	return nil
}

func (deaf) Done() {}

// A response is kept before its last event is sent. Whether a client is there to read that event changes nothing of it.
func TestAStoredResponseStaysWhatItIsWhenTheClientLeavesAtItsEnd(t *testing.T) {
	q := &ResponseRequest{Responses: NewResponseStore(1 << 20)}
	out := deaf{"response.completed"}
	a := &responding{response: q.skeleton(turn.Tools{}), out: out}
	q.live = a
	err := q.finish(a, turn.Reply{Outcome: turn.Outcome{Finish: mlx.FinishStop}})
	require.Error(t, err)
	q.Fail(out, &turn.Error{Kind: turn.ClientGone, Message: "gone"}) // as the server does with a stream that has begun
	require.Equal(t, "failed", a.Status)
	stored, err := q.Responses.StoredResponse(a.ID, nil)
	require.NoError(t, err)
	require.Equal(t, "completed", stored.(*response).Status)
	require.Nil(t, stored.(*response).Error)
}
