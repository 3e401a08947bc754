package kv

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// layoutOf is a layout of small layers for MLX's ops.
func layoutOf(windows ...int) *Layout {
	return &Layout{Windows: windows, KVHeads: 1, HeadDim: dim, ElementSize: 4, Attention: (*mlxc.Scope).SDPA}
}

// seenBy is a sequence that has seen so many tokens.
func seenBy(t *testing.T, s *mlxc.Scope, l *Layout, tokens int) *Sequence {
	st := NewSequence(l)
	pass := NewPass(s, []*Sequence{st}, tokens)
	for layer := range l.Windows {
		x := positions(s, 0, tokens)
		pass.Memory.Attend(s, layer, x, x, x, 1)
	}
	require.NoError(t, s.Eval(st.Arrays()...))
	return st
}

func TestTheTrieFindsTheLongestCommonPrefix(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		c, l := NewStore(1<<30), layoutOf(0, 0)
		for _, ids := range [][]int32{{1, 2, 3, 4}, {1, 2}, {1, 2, 3, 9, 9}, {7}} {
			st := seenBy(t, s, l, len(ids))
			require.NoError(t, c.Keep(s, ids, st, ForPrompts))
			require.NoError(t, st.Free())
		}
		for _, want := range []struct {
			ids []int32
			n   int
		}{{[]int32{1, 2, 3, 4, 5}, 4}, {[]int32{1, 2, 3, 9}, 4}, {[]int32{1, 2, 3, 8}, 3}, {[]int32{1, 5}, 1}, {[]int32{7, 7}, 1}, {[]int32{8}, 0}, {nil, 0}} {
			st, n, _ := c.Find(s, want.ids)
			require.Equal(t, want.n, n, "%v", want.ids)
			require.Equal(t, n > 0, st != nil)
			if st != nil {
				require.Equal(t, n, st.Position())
				require.NoError(t, st.Free())
			}
		}
		require.NoError(t, c.Shrink(0))
		require.Empty(t, c.root.children)
	})
}

// A sequence whose window has moved on is not cut back; the nearest that was kept before is taken.
func TestASlidingWindowGoesOnFromTheNearestSnapshot(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		c, l := NewStore(1<<30), layoutOf(0, 8)
		ids := make([]int32, 40)
		for i := range ids {
			ids[i] = int32(i)
		}
		for _, n := range []int{16, 24, 40} {
			st := seenBy(t, s, l, n)
			// One token more in place: what the window held before is overwritten.
			x := positions(s, n, 1)
			pass := NewPass(s, []*Sequence{st}, 1)
			for layer := range l.Windows {
				pass.Memory.Attend(s, layer, x, x, x, 1)
			}
			require.NoError(t, s.Eval(st.Arrays()...))
			require.NoError(t, c.Keep(s, append(ids[:n:n], 100), st, ForPrompts))
			require.NoError(t, st.Free())
		}
		st := seenBy(t, s, l, 20)
		require.NoError(t, c.Keep(s, ids[:20], st, ForPrompts))
		require.NoError(t, st.Free())
		found, n, branch := c.Find(s, append(ids[:30:30], 200))
		require.Equal(t, 20, n)
		require.Equal(t, 30, branch, "where a snapshot would have helped more")
		require.Equal(t, 20, found.Position())
		require.NoError(t, found.Free())
		require.NoError(t, c.Shrink(0))
	})
}

// Prompts and prefixes share one budget, and what was used last stays whatever it is for.
func TestTheLeastRecentlyUsedIsForgottenFirst(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		l := layoutOf(0)
		one := seenBy(t, s, l, 4)
		history := &History{Keys: []*mlxc.Array{s.Keep(positions(s, 0, 256))}, Values: []*mlxc.Array{s.Keep(positions(s, 0, 256))}, Length: 256}
		require.NoError(t, s.Eval(history.Keys[0], history.Values[0]))
		size := one.Bytes()
		require.Equal(t, size, history.Bytes(), "a cache grows by blocks")
		c := NewStore(3 * size)
		require.NoError(t, c.KeepHistory(s, []int32{1, 2}, history, ForPrefixes))
		require.NoError(t, c.Keep(s, []int32{1, 2, 3, 4}, one, ForPrompts))
		require.NoError(t, c.Keep(s, []int32{2, 2, 3, 4}, one, ForPrompts))
		require.EqualValues(t, []int64{2 * size, size}, []int64{c.Bytes(ForPrompts), c.Bytes(ForPrefixes)})

		again := c.FindHistory(s, []int32{1, 2})
		require.NotNil(t, again)
		require.NoError(t, again.Free())
		for _, other := range [][]int32{{1}, {1, 2, 3}, {1, 2, 3, 4}, {5}} {
			require.Nil(t, c.FindHistory(s, other), "%v", other)
		}
		require.NoError(t, c.Keep(s, []int32{3, 2, 3, 4}, one, ForPrompts))
		require.Equal(t, 3*size, c.Total())
		require.Equal(t, size, c.Bytes(ForPrefixes), "it was used since")
		st, n, _ := c.Find(s, []int32{1, 2, 3, 4})
		require.Nil(t, st)
		require.Zero(t, n)

		require.NoError(t, NewStore(size-1).Keep(s, []int32{1, 2, 3, 4}, one, ForPrompts), "what is too large is not kept")
		require.NoError(t, one.Free())
		require.NoError(t, history.Free())
		require.NoError(t, c.Shrink(0))
		require.Zero(t, c.Total())
		require.Empty(t, c.root.children)
	})
}
