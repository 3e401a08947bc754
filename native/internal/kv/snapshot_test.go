package kv

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// A ring that was read from a file has each position in its place, and is not cut back to where it would see positions that the file
// did not have.
func TestARestoredRingKnowsWhatItHolds(t *testing.T) {
	const window = 8
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		for _, offset := range []int{3, 8, 9, 40, 71, 72, 73, 75, 79, 80, 140, 144, 150} {
			held := min(offset, window)
			p := Snapshot{Window: window, Offset: offset, Held: held}
			keys := positions(s, offset-held, held)
			ring := Restore(s, p, keys, keys, true).(*RingCache)
			saved, k, v := Save(s, ring)
			require.Equal(t, p, saved)
			require.Equal(t, values(t, keys), values(t, k), "%d", offset)
			require.Equal(t, values(t, keys), values(t, v), "%d", offset)
			if offset > window {
				require.Equal(t, window+ringSlack, ring.keys.Dim(timeAxis))
				shared := ring.Share(s).(*RingCache)
				require.False(t, shared.Trim(s, 2), "%d", offset)
				require.True(t, shared.Trim(s, 1), "the next token sees one position less of what is held")
				require.NoError(t, shared.Free())
			}
			require.NoError(t, ring.Free())
		}
	})
}
