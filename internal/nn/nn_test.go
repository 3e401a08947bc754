package nn

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// run runs fn on an owner thread and checks that no handle and no byte outlives it. fn must not end the
// goroutine, so it returns what to check afterwards.
func run(t *testing.T, fn func(l *mlxc.Lease, s *mlxc.Scope)) {
	t.Helper()
	l, err := mlxc.Acquire()
	require.NoError(t, err)
	before, err := mlxc.ReadMemory()
	require.NoError(t, err)
	handles := mlxc.LiveArrays()
	require.NoError(t, l.Do(context.Background(), func() {
		s := l.NewScope()
		defer s.Close()
		fn(l, s)
	}))
	require.NoError(t, l.Release(func() {}))
	after, err := mlxc.ReadMemory()
	require.NoError(t, err)
	require.Equal(t, handles, mlxc.LiveArrays())
	require.Equal(t, before.Active, after.Active)
}

func values(t *testing.T, a *mlxc.Array) []float32 {
	t.Helper()
	v, err := a.Floats()
	require.NoError(t, err)
	return v
}

func TestGELUApproxFollowsItsFormula(t *testing.T) {
	run(t, func(_ *mlxc.Lease, s *mlxc.Scope) {
		in := []float32{-4, -1, -0.1, 0, 0.3, 2, 6}
		got := values(t, GELUApprox(s, s.FromFloats(in, len(in))))
		for i, v := range in {
			x := float64(v)
			require.InDelta(t, 0.5*x*(1+math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))), got[i], 1e-5)
		}
		silu := values(t, SiLU(s, s.FromFloats(in, len(in))))
		for i, v := range in {
			require.InDelta(t, float64(v)/(1+math.Exp(-float64(v))), silu[i], 1e-5)
		}
	})
}

func TestLinearAndEmbeddingAgreeWithTheirDequantisedSelves(t *testing.T) {
	run(t, func(_ *mlxc.Lease, s *mlxc.Scope) {
		q := mlxc.Quantization{GroupSize: 32, Bits: 4}
		w := s.Normal(mlxc.Float32, 1, s.RandomKey(1), 6, 64)
		packed, scales, biases := s.Quantize(w, q)
		plain := s.Dequantize(packed, scales, biases, q)
		x := s.Normal(mlxc.Float32, 1, s.RandomKey(2), 3, 64)
		require.InDeltaSlice(t, values(t, NewLinear(s, plain).Apply(s, x)),
			values(t, NewQuantizedLinear(packed, scales, biases, q).Apply(s, x)), 1e-3)
		ids := s.FromInts([]int32{5, 0, 5}, 3)
		a, b := NewEmbedding(s, plain), NewQuantizedEmbedding(packed, scales, biases, q)
		require.InDeltaSlice(t, values(t, a.Lookup(s, ids, mlxc.Float32)), values(t, b.Lookup(s, ids, mlxc.Float32)), 1e-6)
		require.InDeltaSlice(t, values(t, a.Output().Apply(s, x)), values(t, b.Output().Apply(s, x)), 1e-3)
	})
}
