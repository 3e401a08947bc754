package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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

// rows is keys of two heads for positions from..from+n: every element is its position, and 0.5 more in the second head.
func rows(s *mlxc.Scope, from, n int) *mlxc.Array {
	v := make([]float32, 2*n*dim)
	for i := range v {
		v[i] = float32(from+i/dim%n) + 0.5*float32(i/(n*dim))
	}
	return s.FromFloats(v, 1, 2, n, dim)
}

// What lies at the address of a place is what it holds, head after head, and nobody else sees what is written there: not the cache that it came from, nor
// those that share arrays with that, nor the cache that it goes back to.
func TestAPlaceHasMemoryOfItsOwn(t *testing.T) {
	const window = 8
	for name, c := range map[string]struct {
		cache  Slotted
		window int
		passes []int
		cut    int
	}{
		"full, with room":              {NewFullCache(), 0, []int{200}, 0},
		"full, without room":           {NewFullCache(), 0, []int{256}, 0},
		"full, more room than needed":  {NewFullCache(), 0, []int{1000}, 900},
		"full, grown behind a prompt":  {NewFullCache(), 0, []int{310, 299}, 0},
		"window, not full":             {NewRotatingCache(window), window, []int{5}, 0},
		"window, as long as a prompt":  {NewRotatingCache(window), window, []int{8}, 0},
		"window, of a longer prompt":   {NewRotatingCache(window), window, []int{30}, 0},
		"window, turned":               {NewRotatingCache(window), window, []int{30, 1, 1, 1}, 0},
		"window, cut back":             {NewRotatingCache(window), window, []int{30}, 7},
		"a window of a single place":   {NewRotatingCache(1), 1, []int{4}, 0},
		"bounded, of a longer prompt":  {NewBoundedCache(window, 4), window, []int{30, 1, 1}, 0},
		"bounded, as long as a prompt": {NewBoundedCache(window, 4), window, []int{8}, 0},
	} {
		for _, places := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d places", name, places), func(t *testing.T) {
				mlxtest.OnThread(t, func(s *mlxc.Scope) {
					cache := c.cache.Share(s).(Slotted) // of every case anew
					n := 0
					for _, more := range c.passes {
						cache.Attend(s, func(_ *mlxc.Scope, q, _, _ *mlxc.Array, _ float32, _ mlxc.Mask) *mlxc.Array { return q },
							rows(s, n, more), rows(s, n, more), rows(s, n+5000, more), 1, mlxc.Mask{})
						n += more
					}
					require.True(t, cache.Trim(s, c.cut))
					n -= c.cut
					kept := cache.Share(s)
					before := values(t, kept.Arrays()[0])
					keys, kv, at := cache.Slot(s)
					var place Batched
					room := max(RoomFor(n+1, c.window), at.Filled)
					place.Resize(s, places, room, keys)
					place.Put(s, places-1, keys, kv)
					want := values(t, s.Slice(place.Arrays()[0], 0, places-1, places))
					require.NoError(t, cache.Detach())

					memory, _, err := place.Arrays()[0].Memory()
					require.NoError(t, err)
					memory = memory[:place.Arrays()[0].NBytes()]
					mine := memory[len(memory)/places*(places-1):]
					for i, x := range want {
						require.Equal(t, x, math.Float32frombits(binary.LittleEndian.Uint32(mine[4*i:])), "number %d", i)
					}
					back, _ := place.Get(s, places-1, room, room)
					held := values(t, back)
					for i := range memory {
						memory[i] = 0x77
					}
					require.Equal(t, before, values(t, kept.Arrays()[0]), "kept KV")
					require.Equal(t, held, values(t, back), "a cache that got the place's KV back")
					require.NoError(t, errors.Join(kept.Free(), cache.Free(), place.Free()))
				})
			})
		}
	}
}
