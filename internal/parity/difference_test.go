package parity

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDifferencesAreMeasuredInTheModelsDtype(t *testing.T) {
	next := func(x float32, bits uint) float32 { return math.Float32frombits(math.Float32bits(x) + 1<<bits) }
	for dtype, shift := range bits {
		d := Compare([]float32{1, 1, -1, 0}, []float32{1, next(1, shift), next(-1, shift), 0}, dtype)
		require.Equal(t, Histogram{2, 2}, d.ULP, dtype)
		require.InDelta(t, float64(next(1, shift))-1, d.MaxAbs, 1e-12)
		require.False(t, d.Equal())
	}
	require.Equal(t, Histogram{0, 0, 1}, Compare([]float32{math.SmallestNonzeroFloat32}, []float32{-math.SmallestNonzeroFloat32}, "float32").ULP, "across zero")
}

func TestDifferencesOfEqualOppositeAndBrokenValues(t *testing.T) {
	a := []float32{1, 2, 3}
	require.True(t, Compare(a, a, "float32").Equal())
	require.InDelta(t, 1, Compare(a, a, "float32").Cosine, 1e-12)
	require.InDelta(t, -1, Compare(a, []float32{-1, -2, -3}, "float32").Cosine, 1e-12)
	require.InDelta(t, 2, Compare(a, []float32{-1, -2, -3}, "float32").Relative, 1e-12)
	broken := Compare(a, []float32{1, float32(math.NaN()), float32(math.Inf(1))}, "float32")
	require.EqualValues(t, 2, broken.Broken)
	require.False(t, broken.Equal())
	zeros := Compare([]float32{0}, []float32{0}, "float32")
	require.True(t, zeros.Equal())
	data, err := json.Marshal(zeros)
	require.NoError(t, err)
	require.Contains(t, string(data), `"cosine":null`)
	require.EqualValues(t, 1, Compare([]float32{0}, []float32{3}, "float32").Relative)

	worst := Compare(a, []float32{1, 2, 4}, "float32").merge(Compare(a, []float32{1, 2, 3}, "float32"))
	require.EqualValues(t, 1, worst.MaxAbs)
	require.EqualValues(t, 6, worst.ULP[0]+worst.ULP[5])
}
