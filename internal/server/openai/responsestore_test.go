package openai

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
