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

// The CPU kernels unpack a layer of packed KV for a pass, which counts.
func TestUnpackingCountsAsGrowth(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		const offset, headDim = 600, 64
		l := &Layout{Windows: []int{0}, KVHeads: 1, HeadDim: headDim, ElementSize: 4, Rings: true}
		st := NewSequence(l)
		zeros := s.Zeros(mlxc.Float32, 1, 1, offset, headDim)
		st.Caches[0] = Restore(s, Snapshot{Offset: offset, Held: offset}, zeros, zeros, true)
		st.Quantize(s, mlxc.Quantization{GroupSize: 32, Bits: 8})
		require.NoError(t, s.Eval(st.Arrays()...))
		require.GreaterOrEqual(t, st.Growth(1), 2*(offset+1)*l.PositionBytes())
		require.NoError(t, st.Free())
	})
}
