package kv

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// Whatever a cache went through, a place with RoomFor its positions takes what it holds and gives it back.
func TestAPlaceTakesACacheWithMoreRoomThanItNeeds(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		for name, c := range map[string]struct {
			filled []int // positions of each pass
			cut    int   // positions forgotten then
		}{
			"one pass":                {[]int{310}, 0},
			"two passes":              {[]int{310, 299}, 0},
			"single tokens between":   {[]int{255, 1, 1, 1, 300}, 0},
			"cut back by many blocks": {[]int{1000}, 900},
		} {
			full := NewFullCache()
			n := 0
			for _, more := range c.filled {
				full.Update(s, positions(s, n, more), positions(s, n, more))
				n += more
			}
			require.True(t, full.Trim(s, c.cut), name)
			n -= c.cut
			var place Batched
			place.Resize(s, 2, RoomFor(n+1, 0), positions(s, 0, 1))
			keys, values, at := full.Slot(s)
			place.Put(s, 1, keys, values)
			require.NoError(t, s.Err(), name)
			require.Equal(t, Place{n, n + 1}, at, name)
			require.Equal(t, RoomFor(n+1, 0), place.Room(), name)
			got, _ := place.Get(s, 1, n, n)
			for i, position := range held(t, got) {
				require.Equal(t, i, position, name)
			}
			require.NoError(t, full.Free())
			require.NoError(t, place.Free())
		}
	})
}
