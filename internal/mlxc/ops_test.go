package mlxc

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnaryOps(t *testing.T) {
	in := []float32{-2, -0.5, 0.25, 1, 3}
	run(t, func(_ *Lease, s *Scope) {
		a := s.FromFloats(in, len(in))
		for _, c := range []struct {
			name string
			got  *Array
			want func(float64) float64
		}{
			{"abs", s.Abs(a), math.Abs},
			{"ceil", s.Ceil(a), math.Ceil},
			{"cos", s.Cos(a), math.Cos},
			{"erf", s.Erf(a), math.Erf},
			{"exp", s.Exp(a), math.Exp},
			{"floor", s.Floor(a), math.Floor},
			{"log", s.Log(s.Abs(a)), func(x float64) float64 { return math.Log(math.Abs(x)) }},
			{"negative", s.Negative(a), func(x float64) float64 { return -x }},
			{"reciprocal", s.Reciprocal(a), func(x float64) float64 { return 1 / x }},
			{"rsqrt", s.Rsqrt(s.Abs(a)), func(x float64) float64 { return 1 / math.Sqrt(math.Abs(x)) }},
			{"sigmoid", s.Sigmoid(a), func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }},
			{"sin", s.Sin(a), math.Sin},
			{"sqrt", s.Sqrt(s.Abs(a)), func(x float64) float64 { return math.Sqrt(math.Abs(x)) }},
			{"square", s.Square(a), func(x float64) float64 { return x * x }},
			{"stop_gradient", s.StopGradient(a), func(x float64) float64 { return x }},
			{"tanh", s.Tanh(a), math.Tanh},
		} {
			got := floats(t, c.got)
			for i, x := range in {
				require.InDelta(t, c.want(float64(x)), got[i], 1e-5*math.Max(1, math.Abs(c.want(float64(x)))), "%s(%v)", c.name, x)
			}
		}
		require.Equal(t, []int64{0, 1}, intsOf(t, s.Isnan(s.FromFloats([]float32{1, float32(math.NaN())}, 2))))
		require.Equal(t, []int64{0, 1}, intsOf(t, s.LogicalNot(s.FromBools([]bool{true, false}, 2))))
	})
}

func TestBinaryOpsBroadcast(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := s.FromFloats([]float32{1, 2, 3, 4}, 2, 2)
		b := s.FromFloats([]float32{2, 3}, 2)
		for name, c := range map[string]struct {
			got  *Array
			want []float32
		}{
			"add":          {s.Add(a, b), []float32{3, 5, 5, 7}},
			"subtract":     {s.Subtract(a, b), []float32{-1, -1, 1, 1}},
			"multiply":     {s.Multiply(a, b), []float32{2, 6, 6, 12}},
			"divide":       {s.Divide(a, s.FromFloats([]float32{2, 4}, 2)), []float32{0.5, 0.5, 1.5, 1}},
			"power":        {s.Power(a, s.Scalar(2, Float32)), []float32{1, 4, 9, 16}},
			"matmul":       {s.Matmul(a, a), []float32{7, 10, 15, 22}},
			"maximum":      {s.Maximum(a, b), []float32{2, 3, 3, 4}},
			"minimum":      {s.Minimum(a, b), []float32{1, 2, 2, 3}},
			"floor_divide": {s.FloorDivide(a, b), []float32{0, 0, 1, 1}},
			"remainder":    {s.Remainder(a, b), []float32{1, 2, 1, 1}},
			"logaddexp":    {s.Logaddexp(s.Scalar(0, Float32), s.Scalar(0, Float32)), []float32{float32(math.Ln2)}},
		} {
			require.InDeltaSlice(t, c.want, floats(t, c.got), 1e-6, name)
		}
		for name, c := range map[string]struct {
			got  *Array
			want []int64
		}{
			"equal":         {s.Equal(a, b), []int64{0, 0, 0, 0}},
			"not_equal":     {s.NotEqual(a, b), []int64{1, 1, 1, 1}},
			"greater":       {s.Greater(a, b), []int64{0, 0, 1, 1}},
			"greater_equal": {s.GreaterEqual(a, a), []int64{1, 1, 1, 1}},
			"less":          {s.Less(a, b), []int64{1, 1, 0, 0}},
			"less_equal":    {s.LessEqual(b, a), []int64{0, 0, 1, 1}},
			"logical_and":   {s.LogicalAnd(s.FromBools([]bool{true, true}, 2), s.FromBools([]bool{true, false}, 2)), []int64{1, 0}},
			"logical_or":    {s.LogicalOr(s.FromBools([]bool{false, true}, 2), s.FromBools([]bool{false, false}, 2)), []int64{0, 1}},
		} {
			require.Equal(t, c.want, intsOf(t, c.got), name)
		}
	})
}

func TestShapeOps(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := counting(s, 2, 3)
		require.Equal(t, []int{2, 1, 3}, s.ExpandDims(a, 1).Shape())
		require.Equal(t, []int{2, 3}, s.Squeeze(s.ExpandDims(a, 1), 1).Shape())
		require.Equal(t, []float32{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}, floats(t, s.Repeat(a, 2, 1)))
		require.Equal(t, []float32{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}, floats(t, s.Concatenate(0, a, a)))
		require.Equal(t, []float32{0, 9, 2, 3, 8, 5}, floats(t, s.SliceUpdate(a, s.FromFloats([]float32{9, 8}, 2, 1), 1, 1, 2)))
		require.Equal(t, []float32{0, 1, 2, 3, 4, 5}, floats(t, a), "slice_update leaves its source alone")
		require.Equal(t, []int{3, 2}, s.Reshape(a, -1, 2).Shape())
		require.Equal(t, []float32{0, 0, 0, 0}, floats(t, s.Zeros(Float32, 2, 2)))
		require.Equal(t, []float32{4, 4}, floats(t, s.Full(s.Scalar(4, Float32), 2)))
		require.Equal(t, []int64{3, 4, 5}, intsOf(t, s.Arange(3, 6, Int32)))
		s.Slice(a, 5, 0, 1)
		require.ErrorContains(t, s.Err(), "no axis 5")
	})
}

func TestReductions(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := s.FromFloats([]float32{3, 1, 2, 0, 5, 4}, 2, 3)
		require.Equal(t, []float32{6, 9}, floats(t, s.Sum(a, 1, false)))
		require.Equal(t, []float32{2, 3}, floats(t, s.Mean(a, -1, false)))
		require.Equal(t, []float32{3, 5, 4}, floats(t, s.Max(a, 0, false)))
		require.Equal(t, []int{1, 3}, s.Min(a, 0, true).Shape())
		require.Equal(t, []float32{0, 1, 2}, floats(t, s.Min(a, 0, true)))
		require.Equal(t, []int64{0, 1}, intsOf(t, s.Argmax(a, 1, false)))
		require.Equal(t, []float32{3, 4, 6, 0, 5, 9}, floats(t, s.Cumsum(a, 1, false, true)))
		require.Equal(t, []float32{3, 2, 0, 9, 4, 0}, floats(t, s.Cumsum(a, 1, true, false)))
		require.Equal(t, []float32{1, 2, 3, 0, 4, 5}, floats(t, s.Sort(a, 1)))
		soft := floats(t, s.Softmax(a, 1, true))
		lse := floats(t, s.LogSumExp(a, 1, true))
		for i, v := range []float32{3, 1, 2, 0, 5, 4} {
			require.InDelta(t, math.Exp(float64(v-lse[i/3])), soft[i], 1e-6)
		}
	})
}

func TestIndexing(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := counting(s, 3, 2)
		require.Equal(t, []float32{4, 5, 0, 1}, floats(t, s.Take(a, s.FromInts([]int32{2, 0}, 2), 0)))
		require.Equal(t, []float32{1, 2, 5}, floats(t, s.TakeAlong(a, s.FromInts([]int32{1, 0, 1}, 3, 1), 1)))
		require.Equal(t, []float32{0, 9, 9, 3, 4, 9}, floats(t, s.PutAlong(a, s.FromInts([]int32{1, 0, 1}, 3, 1), s.Scalar(9, Float32), 1)))
		require.Equal(t, []float32{0, 7, 7, 3, 4, 5}, floats(t, s.Where(
			s.LogicalOr(s.Equal(a, s.Scalar(1, Float32)), s.Equal(a, s.Scalar(2, Float32))), s.Scalar(7, Float32), a)))
		order := intsOf(t, s.Argpartition(s.FromFloats([]float32{5, 1, 4, 2, 3}, 5), 2, 0))
		require.EqualValues(t, 4, order[2])
		require.ElementsMatch(t, []int64{1, 3}, order[:2])
	})
}

func TestRandomKeysAreDeterministicAndIndependent(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		logits := s.FromFloats(make([]float32, 1000), 1000)
		a, b := s.RandomSplit(s.RandomKey(42))
		draw := func(key *Array) int64 { return intsOf(t, s.Categorical(logits, -1, key))[0] }
		require.Equal(t, draw(a), draw(a))
		require.NotEqual(t, draw(a), draw(b))
		c, _ := s.RandomSplit(s.RandomKey(42))
		require.Equal(t, draw(a), draw(c))
		require.Equal(t, floats(t, s.Normal(Float32, 1, a, 4)), floats(t, s.Normal(Float32, 1, c, 4)))
	})
}

func TestCategoricalFollowsTheDistribution(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		const n = 20000
		p := []float64{0.5, 0.3, 0.15, 0.05}
		logits := make([]float32, 4)
		for i := range p {
			logits[i] = float32(math.Log(p[i]))
		}
		rows := s.BroadcastTo(s.FromFloats(logits, 1, 4), n, 4)
		counts := make([]float64, 4)
		for _, i := range intsOf(t, s.Categorical(rows, -1, s.RandomKey(1))) {
			counts[i]++
		}
		chi2 := 0.0
		for i := range p {
			chi2 += math.Pow(counts[i]-n*p[i], 2) / (n * p[i])
		}
		require.Less(t, chi2, 16.27, "chi-square, 3 degrees of freedom, p = 0.001: %v", counts)
	})
}

func TestQuantizationRoundTripAndMatmul(t *testing.T) {
	for _, bits := range []int{4, 8} {
		run(t, func(_ *Lease, s *Scope) {
			q := Quantization{GroupSize: 32, Bits: bits}
			w := s.Normal(Float32, 1, s.RandomKey(3), 8, 64)
			x := s.Normal(Float32, 1, s.RandomKey(4), 2, 64)
			packed, scales, biases := s.Quantize(w, q)
			back := s.Dequantize(packed, scales, biases, q)
			step := 8.0 / float64(int(1)<<bits) // normal values span about 8
			require.InDeltaSlice(t, floats(t, w), floats(t, back), step)
			require.InDeltaSlice(t, floats(t, s.Matmul(x, s.Transpose(back))),
				floats(t, s.QuantizedMatmul(x, packed, scales, biases, q)), 1e-3)
		})
	}
}

func TestCompiledFunctionsMatchPlainOnes(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		half := s.Scalar(0.5, Float32)
		body := func(s *Scope, in []*Array) []*Array {
			return []*Array{s.Tanh(s.Multiply(in[0], half)), s.Add(in[0], in[1])}
		}
		f, err := l.Compile(true, body)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		for _, n := range []int{1, 5, 33} { // one trace serves every shape
			a, b := counting(s, n), counting(s, n)
			want, got := body(s, []*Array{a, b}), f.Call(s, a, b)
			require.NoError(t, s.Err())
			require.Len(t, got, 2)
			for i := range want {
				require.InDeltaSlice(t, floats(t, want[i]), floats(t, got[i]), 1e-6)
			}
		}
	})
}

func TestCompiledFunctionErrorsReachTheCaller(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		f, err := l.Compile(false, func(s *Scope, in []*Array) []*Array {
			return []*Array{s.Matmul(in[0], in[0])}
		})
		require.NoError(t, err)
		c := s.Child()
		require.Nil(t, f.Call(c, counting(c, 2, 3)))
		require.ErrorContains(t, c.Err(), "matmul")
		require.NoError(t, c.Close())
		require.NoError(t, f.Close())

		p, err := l.Compile(false, func(*Scope, []*Array) []*Array { panic("in trace") })
		require.NoError(t, err)
		c = s.Child()
		require.Nil(t, p.Call(c, counting(c, 2)))
		require.ErrorContains(t, c.Err(), "in trace")
		require.NoError(t, c.Close())
		require.NoError(t, p.Close())
	})
}

func TestSafetensorsRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.safetensors")
	run(t, func(_ *Lease, s *Scope) {
		in := map[string]*Array{
			"a": counting(s, 2, 3),
			"b": s.AsType(counting(s, 4), BFloat16),
			"c": s.FromUints([]uint32{1, 1 << 31}, 2),
		}
		require.NoError(t, s.SaveSafetensors(path, in, map[string]string{"format": "mlx"}))
		out := s.LoadSafetensors(path)
		require.NoError(t, s.Err())
		require.Len(t, out, 3)
		for name, a := range in {
			require.Equal(t, a.DType(), out[name].DType(), name)
			require.Equal(t, a.Shape(), out[name].Shape(), name)
			require.Equal(t, floats(t, a), floats(t, out[name]), name)
		}
	})
}

func TestSafetensorsErrorsAreReported(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		require.Nil(t, s.LoadSafetensors(filepath.Join(t.TempDir(), "none.safetensors")))
		require.ErrorContains(t, s.Err(), "load safetensors")
		c := s.Child()
		defer c.Close()
		require.Error(t, c.SaveSafetensors(filepath.Join(t.TempDir(), "no", "such", "dir"), map[string]*Array{"a": counting(c, 1)}, nil))
	})
}

func TestOpsOfBatchesAndSamplers(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := s.FromFloats([]float32{1, 2, 3, 4, 5, 6}, 3, 2)
		for i, row := range s.Split(a, 3, 0) {
			require.Equal(t, []int{1, 2}, row.Shape())
			require.Equal(t, []float32{float32(2*i + 1), float32(2*i + 2)}, floats(t, row))
		}
		index := s.FromInts([]int32{0, 2, 0}, 1, 3)
		loss := s.FromFloats([]float32{-1, -1, -1}, 1, 3)
		require.Equal(t, []float32{8, 10, 9}, floats(t, s.ScatterAdd(s.FromFloats([]float32{10, 10, 10}, 1, 3), index, loss, -1)))
		require.Equal(t, []float32{8, 11, 16, 23, 24, 35}, floats(t, s.AddMM(s.FromFloats([]float32{1, 1}, 2), a, s.FromFloats([]float32{1, 2, 3, 4}, 2, 2))))
		shared := s.Keep(s.Share(a))
		require.Equal(t, floats(t, a), floats(t, shared))
		require.NoError(t, shared.Free())
		require.Equal(t, []int{3, 2}, a.Shape(), "the other handle stays")
		drawn := floats(t, s.Uniform(s.RandomKey(3), 1000))
		mean := float32(0)
		for _, v := range drawn {
			require.True(t, v >= 0 && v < 1)
			mean += v / 1000
		}
		require.InDelta(t, 0.5, mean, 0.05)
	})
	run(t, func(_ *Lease, s *Scope) {
		s.Split(s.FromFloats([]float32{1, 2, 3}, 3), 2, 0)
		require.ErrorContains(t, s.Err(), "split")
	})
}

func TestAnOpFailsWhenItIsToldTo(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		FailAt(2)
		a := s.Scalar(1, Float32)
		b := s.Add(a, a)
		c := s.Add(a, a)
		require.True(t, FailAt(0))
		require.ErrorContains(t, s.Err(), "Cannot reshape")
		require.True(t, a.Valid())
		require.False(t, b.Valid() && c.Valid())
	})
	require.False(t, FailAt(5))
	require.False(t, FailAt(0), "it was not reached")
}
