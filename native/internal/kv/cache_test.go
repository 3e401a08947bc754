package kv

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

func values(t *testing.T, a *mlxc.Array) []float32 {
	t.Helper()
	v, err := a.Floats()
	require.NoError(t, err)
	return v
}

const dim = 4

// positions is keys for positions from..from+n: every element is its position.
func positions(s *mlxc.Scope, from, n int) *mlxc.Array {
	v := make([]float32, n*dim)
	for i := range v {
		v[i] = float32(from + i/dim)
	}
	return s.FromFloats(v, 1, 1, n, dim)
}

// held is the position that each slot of returned keys stands for.
func held(t *testing.T, a *mlxc.Array) []int {
	t.Helper()
	var out []int
	for i, v := range values(t, a) {
		if i%dim == 0 {
			out = append(out, int(v))
		}
	}
	return out
}

// visible applies a mask and tells, for each query, the positions it may attend to.
func visible(t *testing.T, s *mlxc.Scope, mask mlxc.Mask, slots []int, queries int) []map[int]bool {
	t.Helper()
	out := make([]map[int]bool, queries)
	var bits []int64
	if mask.Array != nil {
		var err error
		bits, err = mask.Array.Ints()
		require.NoError(t, err)
		require.Len(t, bits, queries*len(slots), "mask covers the keys returned")
	}
	for q := range queries {
		out[q] = map[int]bool{}
		for k, position := range slots {
			see := true
			switch {
			case bits != nil:
				see = bits[q*len(slots)+k] != 0
			case mask.Causal:
				see = k <= len(slots)-queries+q
			}
			if see {
				out[q][position] = true
			}
		}
	}
	return out
}

func TestCachesShowEveryQueryExactlyItsWindow(t *testing.T) {
	const window = 8
	plans := [][]int{
		{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		{5, 1, 1, 1, 1, 1, 1, 1, 1},
		{20, 1, 1, 3, 1},
		{3, 4, 5, 6, 1, 1, 9, 2, 1},
		{8, 1, 8, 1}, {7, 1, 1}, {1, 7, 1, 1}, {9, 9, 9},
	}
	for _, plan := range plans {
		mlxtest.OnThread(t, func(s *mlxc.Scope) {
			for name, c := range map[string]struct {
				cache interface {
					OpCache
					Update(s *mlxc.Scope, keys, values *mlxc.Array) (k, v *mlxc.Array)
				}
				window int
			}{
				"full": {NewFullCache(), math.MaxInt}, "rotating": {NewRotatingCache(window), window},
			} {
				at := 0
				for _, n := range plan {
					step := s.Child()
					require.Equal(t, at, c.cache.Offset())
					mask := c.cache.Mask(step, n)
					k, v := c.cache.Update(step, positions(step, at, n), positions(step, at+1000, n))
					slots := held(t, k)
					for i, p := range held(t, v) {
						require.Equal(t, slots[i]+1000, p, "keys and values keep together")
					}
					for q, saw := range visible(t, step, mask, slots, n) {
						want := map[int]bool{}
						for p := max(0, at+q-c.window+1); p <= at+q; p++ {
							want[p] = true
						}
						require.Equal(t, want, saw, "%s %v: query at %d", name, plan, at+q)
					}
					at += n
					require.NoError(t, step.Err())
					require.NoError(t, step.Close())
				}
				require.Len(t, c.cache.Arrays(), 2)
				require.Positive(t, c.cache.Bytes())
				require.NoError(t, c.cache.Free())
				require.Zero(t, c.cache.Bytes())
			}
		})
	}
}

func TestFullCacheGrowsByBlocks(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		c := NewFullCache()
		at := 0
		for _, n := range []int{200, 100, 1, 300, 1} {
			k, _ := c.Update(s, positions(s, at, n), positions(s, at, n))
			at += n
			require.Equal(t, at, k.Dim(2))
			require.Less(t, c.keys.Dim(2)-at, growBy)
		}
		got := held(t, s.Slice(c.keys, 2, 0, at))
		for i, p := range got {
			require.Equal(t, i, p)
		}
		require.NoError(t, c.Free())
	})
}

func TestRotatingCacheNeverHoldsMoreThanItMust(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		c := NewRotatingCache(16)
		for at := range 100 {
			step := s.Child()
			k, _ := c.Update(step, positions(step, at, 1), positions(step, at, 1))
			require.LessOrEqual(t, k.Dim(2), 16)
			require.NoError(t, step.Eval(c.Arrays()...))
			require.NoError(t, step.Close())
		}
		require.Equal(t, 100, c.Offset())
		require.EqualValues(t, 2*16*dim*4, c.Bytes())
		require.NoError(t, c.Free())
	})
}

func TestCausalMask(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		got, err := CausalMask(s, 3, 2, 2).Ints()
		require.NoError(t, err)
		require.Equal(t, []int64{
			0, 1, 1, 0, 0,
			0, 0, 1, 1, 0,
			0, 0, 0, 1, 1,
		}, got)
	})
}

// A cache that was cut back shows each query what it would have shown without the detour. What cannot be
// cut back is refused.
func TestATrimmedCacheEqualsAShorterOne(t *testing.T) {
	const window = 8
	trimmed, refused := 0, 0
	for _, plan := range [][]int{
		{5, -2, 1, 1, 1, 1, 1, 1, 1}, {20, -7, 1, 1, 1}, {20, -19, 3, 1}, {3, 1, 1, -2, 1, 1, 4, 1},
		{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, 1}, {6, 6, -3, 1, 1, 1}, {6, 6, 6, -5, 2, 1}, {6, 6, 1, -1, 1}, {4, -4, 3, 1},
		{8, 1, 1, 1, 1, 1, 1, 1, 1, -1, 1, 1}, {7, 9, -8, 1, 1}, {7, 9, -9, 1}, {2, -3, 1},
	} {
		mlxtest.OnThread(t, func(s *mlxc.Scope) {
			for name, c := range map[string]struct {
				cache interface {
					OpCache
					Update(s *mlxc.Scope, keys, values *mlxc.Array) (k, v *mlxc.Array)
				}
				window int
			}{
				"full": {NewFullCache(), math.MaxInt}, "rotating": {NewRotatingCache(window), window},
			} {
				at := 0
				for _, n := range plan {
					if n < 0 {
						before := c.cache.Share(s)
						if c.cache.Trim(s, -n) {
							at += n
							trimmed++
						} else {
							refused++
							require.Equal(t, before.Offset(), c.cache.Offset(), "a refusal changes nothing")
						}
						require.NoError(t, before.Free())
						require.Equal(t, at, c.cache.Offset())
						continue
					}
					mask := c.cache.Mask(s, n)
					k, _ := c.cache.Update(s, positions(s, at, n), positions(s, at, n))
					for q, saw := range visible(t, s, mask, held(t, k), n) {
						want := map[int]bool{}
						for p := max(0, at+q-c.window+1); p <= at+q; p++ {
							want[p] = true
						}
						require.Equal(t, want, saw, "%s %v: query at %d", name, plan, at+q)
					}
					at += n
				}
				require.NoError(t, c.cache.Free())
			}
		})
	}
	require.Greater(t, trimmed, 12)
	require.Greater(t, refused, 2)
}

func TestAQuantizedCacheAttendsAsAFullOneDoes(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		const head = 32
		random := func(seed uint64, heads, n int) *mlxc.Array {
			return s.Normal(mlxc.Float32, 1, s.RandomKey(seed), 1, heads, n, head)
		}
		full := NewFullCache()
		var packed *QuantizedCache
		for i, n := range []int{5, 1, 300, 1, 1} {
			seed := uint64(10 * i)
			q, k, v := random(seed, 4, n), random(seed+1, 2, n), random(seed+2, 2, n)
			if packed == nil {
				packed = NewFullCache().Quantize(s, mlxc.Quantization{GroupSize: 32, Bits: 8})
			}
			want := full.Attend(s, (*mlxc.Scope).SDPA, q, k, v, 0.2, full.Mask(s, n))
			got := packed.Attend(s, (*mlxc.Scope).SDPA, q, k, v, 0.2, packed.Mask(s, n))
			require.InDeltaSlice(t, values(t, want), values(t, got), 0.05)
			if i == 1 { // from a full cache on
				require.NoError(t, packed.Free())
				packed = full.Quantize(s, mlxc.Quantization{GroupSize: 32, Bits: 8})
			}
		}
		require.Less(t, packed.Bytes(), full.Bytes()/2)
		shared := packed.Share(s)
		require.True(t, packed.Trim(s, 100))
		require.Equal(t, 208, packed.Offset())
		require.Equal(t, 308, shared.Offset())
		require.NoError(t, shared.Free())
		require.NoError(t, packed.Free())
		require.NoError(t, full.Free())
	})
}

// What writes to arrays that another cache has too makes arrays of its own, which the memory budget must be asked for.
func TestACacheThatSharesItsArraysAsksForMemoryBeforeWriting(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		for name, c := range map[string]OpCache{"full": NewFullCache(), "rotating": NewRotatingCache(16)} {
			step := func(from, n int) {
				x := positions(s, from, n)
				c.Attend(s, (*mlxc.Scope).SDPA, x, x, x, 1, c.Mask(s, n))
				require.NoError(t, s.Eval(c.Arrays()...))
			}
			step(0, 15)
			step(15, 1)
			step(16, 1)
			require.Zero(t, c.Room(1), name)
			other := c.Share(s)
			for _, shared := range []Cache{c, other} {
				require.EqualValues(t, c.Bytes(), 2*4*dim*shared.Room(1), name)
			}
			step(17, 1)
			require.Zero(t, c.Room(1), "%s has arrays of its own", name)
			require.NoError(t, other.Free())
			require.NoError(t, c.Free())
		}
	})
}
