package mlxc

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// counting is an array of the given shape whose elements are 0, 1, 2, ...
func counting(s *Scope, shape ...int) *Array {
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i)
	}
	return s.FromFloats(v, shape...)
}

func TestReadingViewsFollowsTheirShapeNotTheirBuffer(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := counting(s, 2, 3)
		cases := map[string]struct {
			view *Array
			want []float32
		}{
			"plain":                 {a, []float32{0, 1, 2, 3, 4, 5}},
			"transposed":            {s.Transpose(a), []float32{0, 3, 1, 4, 2, 5}},
			"broadcast":             {s.BroadcastTo(s.FromFloats([]float32{7, 8}, 2, 1), 2, 3), []float32{7, 7, 7, 8, 8, 8}},
			"sliced column":         {s.Slice(a, 1, 1, 2), []float32{1, 4}},
			"sliced from the end":   {s.Slice(a, 1, -2, 3), []float32{1, 2, 4, 5}},
			"strided":               {s.SliceStep(a, 1, 0, 3, 2), []float32{0, 2, 3, 5}},
			"strided, then flipped": {s.Transpose(s.SliceStep(counting(s, 4, 2), 0, 1, 4, 2)), []float32{2, 6, 3, 7}},
			"transposed in 3 axes":  {s.Transpose(counting(s, 2, 1, 2), 2, 0, 1), []float32{0, 2, 1, 3}},
			"reshaped view":         {s.Reshape(s.Transpose(a), 6), []float32{0, 3, 1, 4, 2, 5}},
			"scalar":                {s.Scalar(2.5, Float32), []float32{2.5}},
			"bfloat16 transposed":   {s.Transpose(s.AsType(a, BFloat16)), []float32{0, 3, 1, 4, 2, 5}},
		}
		for name, c := range cases {
			require.Equal(t, c.want, floats(t, c.view), name)
			require.Equal(t, c.want, slices.Collect(c.view.Iter()), name+" by Iter")
			want := make([]int64, len(c.want))
			for i, v := range c.want {
				want[i] = int64(v)
			}
			require.Equal(t, want, intsOf(t, s.AsType(c.view, Int32)), name+" as ints")
		}
	})
}

func TestIterStopsWhenTheLoopBreaks(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		var got []float32
		for v := range counting(s, 10).Iter() {
			if got = append(got, v); len(got) == 3 {
				break
			}
		}
		require.Equal(t, []float32{0, 1, 2}, got)
	})
}

func TestIterOfABadArrayLatchesTheError(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		bad := s.Child().Matmul(counting(s, 2, 3), counting(s, 2, 3))
		require.Empty(t, slices.Collect(bad.Iter()))
		require.ErrorIs(t, bad.scope.Err(), error(bad.scope.Err()))
		require.ErrorContains(t, bad.scope.Err(), "matmul")
	})
}

func TestShapeAndTypeQueries(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := s.AsType(counting(s, 2, 3, 4), BFloat16)
		require.Equal(t, []int{2, 3, 4}, a.Shape())
		require.Equal(t, 4, a.Dim(-1))
		require.Equal(t, 2, a.Dim(0))
		require.Equal(t, 0, a.Dim(3), "no such axis")
		require.Equal(t, 3, a.NDim())
		require.Equal(t, 24, a.Size())
		require.Equal(t, 48, a.NBytes())
		require.Equal(t, BFloat16, a.DType())
		require.Equal(t, "array([2 3 4], bfloat16)", a.String())
	})
}

func TestIntsRefusesFloats(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		_, err := counting(s, 2).Ints()
		require.ErrorContains(t, err, "float32")
	})
}

func TestIntAndFloatWantOneElement(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		_, err := counting(s, 2).Float()
		require.ErrorContains(t, err, "2 elements")
		_, err = s.FromInts([]int32{1, 2}, 2).Int()
		require.ErrorContains(t, err, "2 elements")
		n, err := s.FromInts([]int32{-7}).Int()
		require.NoError(t, err)
		require.Equal(t, -7, n)
	})
}

func TestEmptyArraysRead(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		require.Empty(t, floats(t, s.FromFloats(nil, 0, 3)))
	})
}

func TestFromSliceRefusesAWrongCount(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := s.FromFloats([]float32{1, 2, 3}, 2, 2)
		require.False(t, a.Valid())
		require.ErrorContains(t, s.Err(), "3 values do not fill shape [2 2]")
	})
}

func TestBFloat16ScalarsRoundToNearestEven(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		for _, v := range []float64{0.044715, math.Sqrt(2 / math.Pi), 11.3137084989847, 1.00390625, 1.01171875, -3.3e38, 0} {
			host := floats(t, s.Scalar(v, BFloat16))
			mlx := floats(t, s.AsType(s.Scalar(v, Float32), BFloat16))
			require.Equal(t, mlx, host, "%v", v)
		}
	})
}
