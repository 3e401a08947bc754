package mlxc

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRMSNormFollowsItsFormula(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		x, w := s.Normal(Float32, 2, s.RandomKey(1), 3, 8), s.Normal(Float32, 1, s.RandomKey(2), 8)
		mean := s.Mean(s.Square(x), -1, true)
		want := s.Multiply(s.Multiply(x, s.Rsqrt(s.Add(mean, s.Scalar(1e-6, Float32)))), w)
		require.InDeltaSlice(t, floats(t, want), floats(t, s.RMSNorm(x, w, 1e-6)), 1e-5)
		require.Len(t, floats(t, s.RMSNorm(x, nil, 1e-6)), 24, "weight is optional")
	})
}

func TestLayerNormFollowsItsFormula(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		x, w, b := s.Normal(Float32, 2, s.RandomKey(1), 3, 8), s.Normal(Float32, 1, s.RandomKey(2), 8), s.Normal(Float32, 1, s.RandomKey(3), 8)
		centred := s.Subtract(x, s.Mean(x, -1, true))
		variance := s.Mean(s.Square(centred), -1, true)
		want := s.Add(s.Multiply(s.Multiply(centred, s.Rsqrt(s.Add(variance, s.Scalar(1e-5, Float32)))), w), b)
		require.InDeltaSlice(t, floats(t, want), floats(t, s.LayerNorm(x, w, b, 1e-5)), 1e-5)
	})
}

func TestRoPERotatesHalvesByPosition(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		const d, positions, offset = 8, 5, 3
		x := s.Normal(Float32, 1, s.RandomKey(1), 1, 1, positions, d)
		in, got := floats(t, x), floats(t, s.RoPE(x, RoPE{Dims: d, Base: 100, Scale: 0.5}, offset))
		for p := range positions {
			for i := range d / 2 {
				angle := 0.5 * float64(p+offset) * math.Pow(100, -2*float64(i)/d)
				a, b := float64(in[p*d+i]), float64(in[p*d+i+d/2])
				require.InDelta(t, a*math.Cos(angle)-b*math.Sin(angle), got[p*d+i], 1e-5)
				require.InDelta(t, a*math.Sin(angle)+b*math.Cos(angle), got[p*d+i+d/2], 1e-5)
			}
		}
	})
}

func TestRoPEAtTakesAnOffsetForEachRow(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		p := RoPE{Dims: 8, Base: 10000, Scale: 1}
		x := s.Normal(Float32, 1, s.RandomKey(1), 2, 3, 4, 8)
		got := s.RoPEAt(x, p, s.FromInts([]int32{5, 11}, 2))
		for row, offset := range []int{5, 11} {
			want := s.RoPE(s.Slice(x, 0, row, row+1), p, offset)
			require.InDeltaSlice(t, floats(t, want), floats(t, s.Slice(got, 0, row, row+1)), 1e-5)
		}
	})
}

func TestAttentionMatchesItsFormulaUnderEveryMask(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		const heads, kvHeads, tq, tk, d = 4, 2, 3, 5, 8
		scale := float32(1 / math.Sqrt(d))
		q := s.Normal(Float32, 1, s.RandomKey(1), 2, heads, tq, d)
		k := s.Normal(Float32, 1, s.RandomKey(2), 2, kvHeads, tk, d)
		v := s.Normal(Float32, 1, s.RandomKey(3), 2, kvHeads, tk, d)
		reference := func(mask *Array) *Array {
			scores := s.Multiply(s.Matmul(q, s.Transpose(s.Repeat(k, heads/kvHeads, 1), 0, 1, 3, 2)), s.Scalar(float64(scale), Float32))
			if mask != nil {
				scores = s.Where(mask, scores, s.Scalar(math.Inf(-1), Float32))
			}
			return s.Matmul(s.Softmax(scores, -1, true), s.Repeat(v, heads/kvHeads, 1))
		}
		causal := s.FromBools([]bool{
			true, true, true, false, false,
			true, true, true, true, false,
			true, true, true, true, true,
		}, tq, tk)
		window := s.FromBools([]bool{
			false, true, true, false, false,
			false, false, true, true, false,
			false, false, false, true, true,
		}, tq, tk)
		for name, c := range map[string]struct {
			mask Mask
			ref  *Array
		}{
			"none": {Mask{}, nil}, "causal": {Mask{Causal: true}, causal}, "window": {Mask{Array: window}, window},
		} {
			require.InDeltaSlice(t, floats(t, reference(c.ref)), floats(t, s.SDPA(q, k, v, scale, c.mask)), 1e-5, name)
		}
		s.SDPA(q, k, v, scale, Mask{Causal: true, Array: window})
		require.ErrorContains(t, s.Err(), "both causal and an array")
	})
}
