package mlxc

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// differentiable is a function made of kernels, and the same of MLX's ops in a type.
type differentiable struct {
	kernels func(s *Scope, in []*Array) []*Array
	mlx     func(s *Scope, in []*Array, dtype DType) []*Array
}

// requireGradients checks the values and gradients of kernels at primals against MLX's ops in float32: their error is at most that
// of MLX's ops in the primals' type, or what float32 leaves.
func requireGradients(t *testing.T, l *Lease, s *Scope, dtype DType, f differentiable, primals []*Array, what string) {
	t.Helper()
	same := func(s *Scope, dtype DType, in []*Array) []*Array {
		out := make([]*Array, len(in))
		for i, a := range in {
			out[i] = s.AsType(a, dtype)
		}
		return out
	}
	exact := func(s *Scope, in []*Array) []*Array { return f.mlx(s, same(s, Float32, in), Float32) }
	own := func(s *Scope, in []*Array) []*Array { return f.mlx(s, in, dtype) }
	shapes := f.kernels(s, primals)
	require.NoError(t, s.Err(), what)
	cotangents := make([]*Array, len(shapes))
	for i, a := range shapes {
		cotangents[i] = s.Normal(a.DType(), 1, s.RandomKey(uint64(100+i)), a.Shape()...)
	}
	values, products := l.VJP(s, f.kernels, primals, cotangents)
	require.NoError(t, s.Err(), what)
	wantValues, want := l.VJP(s, exact, primals, same(s, Float32, cotangents))
	require.NoError(t, s.Err(), what)
	var typed []*Array
	for _, a := range own(s, primals) {
		typed = append(typed, s.AsType(cotangents[len(typed)], a.DType()))
	}
	ownValues, ownProducts := l.VJP(s, own, primals, typed)
	require.NoError(t, s.Err(), what)
	compare := func(kind string, got, want, own []*Array) {
		require.Len(t, got, len(want))
		for i := range got {
			require.Equal(t, want[i].Shape(), got[i].Shape())
			expected := floats(t, s.AsType(want[i], Float32))
			mine := distance(expected, floats(t, s.AsType(got[i], Float32)))
			bound := max(distance(expected, floats(t, s.AsType(own[i], Float32))), 2e-5)
			if dtype != Float32 { // of rounding the result alone
				bound = max(bound, math.Ldexp(1, map[DType]int{BFloat16: -9, Float16: -12}[dtype]))
			}
			require.LessOrEqual(t, mine, 1.05*bound, "%s: %s %d: %v for %v", what, kind, i, head(floats(t, s.AsType(got[i], Float32))), head(expected))
		}
	}
	compare("value", values, wantValues, ownValues)
	compare("gradient", products, want, ownProducts)
}

func head(v []float32) []float32 { return v[:min(len(v), 6)] }

// distance is |got - want| over |want|.
func distance(want, got []float32) float64 {
	var sum, norm float64
	for i, w := range want {
		sum, norm = sum+math.Pow(float64(got[i])-float64(w), 2), norm+math.Pow(float64(w), 2)
	}
	if sum == 0 {
		return 0
	}
	return math.Sqrt(sum / max(norm, 1e-30))
}

var trainingTypes = map[string]DType{"float32": Float32, "bfloat16": BFloat16, "float16": Float16}

// eachType runs fn on an owner thread for each type that models compute in.
func eachType(t *testing.T, fn func(t *testing.T, l *Lease, s *Scope, dtype DType)) {
	for name, dtype := range trainingTypes {
		t.Run(name, func(t *testing.T) { run(t, func(l *Lease, s *Scope) { fn(t, l, s, dtype) }) })
	}
}

// weights is a layer for the kernels and a matrix [in, out] for MLX.
func weights(s *Scope, dtype DType, seed uint64, in, out, bits, group int) (Layer, *Array) {
	w := s.Normal(dtype, float32(1/math.Sqrt(float64(in))), s.RandomKey(seed), out, in)
	if bits == 0 {
		return Layer{Weights: w}, s.Transpose(w, 1, 0)
	}
	q := Quantization{Bits: bits, GroupSize: group}
	packed, scales, biases := s.Quantize(w, q)
	exact := s.Dequantize(packed, s.AsType(scales, Float32), s.AsType(biases, Float32), q)
	return Layer{Weights: packed, Scales: scales, Biases: biases, Format: q}, s.Transpose(exact, 1, 0)
}

func TestGradientsOfAdaptedLayers(t *testing.T) {
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		for _, c := range []struct {
			rows, in, bits, group int
			outs, ranks           []int // a rank of 0 is no LoRA
		}{
			{1, 1, 0, 0, []int{1}, []int{1}},
			{7, 37, 0, 0, []int{5, 1, 40}, []int{3, 0, 8}},
			{33, 64, 0, 0, []int{96}, []int{0}},
			{70, 100, 0, 0, []int{33, 130}, []int{8, 8}},
			{65, 640, 0, 0, []int{256, 64, 64}, []int{8, 8, 8}},
			{3, 64, 4, 32, []int{17}, []int{2}},
			{40, 128, 2, 64, []int{40, 9}, []int{0, 5}},
			{40, 128, 3, 32, []int{64}, []int{4}},
			{40, 256, 5, 128, []int{64}, []int{4}},
			{40, 256, 6, 64, []int{31}, []int{4}},
			{50, 256, 8, 128, []int{64, 32}, []int{17, 1}},
		} {
			var layers []Layer
			var matrices []*Array
			primals := []*Array{s.Normal(dtype, 1, s.RandomKey(1), c.rows, c.in)}
			for i, out := range c.outs {
				layer, matrix := weights(s, dtype, uint64(10+i), c.in, out, c.bits, c.group)
				layers, matrices = append(layers, layer), append(matrices, matrix)
				if rank := c.ranks[i]; rank > 0 {
					primals = append(primals, s.Normal(Float32, 0.3, s.RandomKey(uint64(20+i)), c.in, rank), s.Normal(Float32, 0.3, s.RandomKey(uint64(30+i)), rank, out))
				}
			}
			const scale = 1.5
			f := differentiable{
				kernels: func(s *Scope, in []*Array) []*Array {
					loras := make([]LoRA, len(layers))
					next := in[1:]
					for i, rank := range c.ranks {
						if rank > 0 {
							loras[i], next = LoRA{next[0], next[1], scale}, next[2:]
						}
					}
					return []*Array{s.Adapted(in[0], false, layers, loras)}
				},
				mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
					var out []*Array
					next := in[1:]
					for i, rank := range c.ranks {
						y := s.Matmul(in[0], s.AsType(matrices[i], dtype))
						if rank > 0 {
							z := s.Multiply(s.Scalar(scale, Float32), s.Matmul(s.Matmul(in[0], next[0]), next[1]))
							y, next = s.Add(y, s.AsType(z, dtype)), next[2:]
						}
						out = append(out, y)
					}
					return []*Array{s.Concatenate(-1, out...)}
				},
			}
			requireGradients(t, l, s, dtype, f, primals, fmt.Sprint(c))
		}
	})
}

func mlxGate(s *Scope, gate Gate, x, up *Array) *Array {
	if gate == SiLUGate {
		return s.Multiply(s.Multiply(x, s.Sigmoid(x)), up)
	}
	c := func(v float64) *Array { return s.Scalar(v, x.DType()) }
	inner := s.Multiply(c(math.Sqrt(2/math.Pi)), s.Add(x, s.Multiply(c(0.044715), s.Multiply(x, s.Multiply(x, x)))))
	return s.Multiply(s.Multiply(s.Multiply(c(0.5), x), s.Add(c(1), s.Tanh(inner))), up)
}

func TestGradientsOfGates(t *testing.T) {
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		for _, gate := range []Gate{GELUGate, SiLUGate} {
			for _, n := range []int{1, 15, 16, 100} {
				f := differentiable{
					kernels: func(s *Scope, in []*Array) []*Array { return []*Array{s.GateHalves(in[0], gate, dtype)} },
					mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
						parts := s.Split(s.AsType(in[0], dtype), 2, -1)
						return []*Array{mlxGate(s, gate, parts[0], parts[1])}
					},
				}
				requireGradients(t, l, s, dtype, f, []*Array{s.Normal(Float32, 3, s.RandomKey(1), 5, 2*n)}, fmt.Sprint(gate, n))
			}
			up, upMatrix := weights(s, dtype, 2, 48, 20, 0, 0)
			first, matrix := weights(s, dtype, 3, 48, 20, 0, 0)
			f := differentiable{
				kernels: func(s *Scope, in []*Array) []*Array { return []*Array{s.Apply(in[0], gate, false, false, first, up)} },
				mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
					return []*Array{mlxGate(s, gate, s.Matmul(in[0], s.AsType(matrix, dtype)), s.Matmul(in[0], s.AsType(upMatrix, dtype)))}
				},
			}
			requireGradients(t, l, s, dtype, f, []*Array{s.Normal(dtype, 1, s.RandomKey(1), 9, 48)}, "two layers")
		}
	})
}

func TestGradientsOfNorms(t *testing.T) {
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		const eps = 1e-6
		for _, n := range []int{2, 15, 33, 640} { // a norm of one number is its sign: nothing comes back
			post, next := s.Normal(dtype, 1, s.RandomKey(5), n), s.Normal(dtype, 1, s.RandomKey(6), n)
			h, y := s.Normal(dtype, 2, s.RandomKey(1), 3, 7, n), s.Normal(Float32, 2, s.RandomKey(2), 3, 7, n)
			for _, behind := range []*Array{nil, post} {
				f := differentiable{
					kernels: func(s *Scope, in []*Array) []*Array {
						sum, normed := s.AddNorm(in[0], in[1], behind, next, eps, false)
						return []*Array{sum, normed}
					},
					mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
						y := s.AsType(in[1], dtype)
						if behind != nil {
							y = s.RMSNorm(y, s.AsType(behind, dtype), eps)
						}
						sum := s.Add(in[0], y)
						return []*Array{sum, s.RMSNorm(sum, s.AsType(next, dtype), eps)}
					},
				}
				requireGradients(t, l, s, dtype, f, []*Array{h, y}, fmt.Sprint(n, behind != nil))
			}
			f := differentiable{
				kernels: func(s *Scope, in []*Array) []*Array { return []*Array{s.Norm(in[0], next, eps)} },
				mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
					return []*Array{s.RMSNorm(in[0], s.AsType(next, dtype), eps)}
				},
			}
			requireGradients(t, l, s, dtype, f, []*Array{h}, fmt.Sprint("norm of ", n))
		}
	})
}

// Sums that were cut do not pass a gradient on.
func TestNoGradientComesThroughASumThatWasCut(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		next := s.Full(s.Scalar(1, Float16), 2)
		h, y := s.AsType(s.FromFloats([]float32{60000, 1}, 1, 2), Float16), s.FromFloats([]float32{9000, 1}, 1, 2)
		one := s.Full(s.Scalar(1, Float16), 1, 2)
		_, got := l.VJP(s, func(s *Scope, in []*Array) []*Array {
			sum, normed := s.AddNorm(in[0], in[1], nil, next, 1e-6, true)
			return []*Array{sum, normed}
		}, []*Array{h, y}, []*Array{one, s.Zeros(Float16, 1, 2)})
		require.NoError(t, s.Err())
		require.Equal(t, []float32{0, 1}, floats(t, s.AsType(got[0], Float32)))
		require.Equal(t, []float32{0, 1}, floats(t, got[1]))
	})
}

func TestGradientsOfAttention(t *testing.T) {
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		for _, c := range []struct {
			rows, tokens, heads, kvHeads, headDim, window int
			normed, neighbours, segments                  bool
		}{
			{1, 1, 1, 1, 2, 0, false, false, false},
			{2, 5, 4, 1, 16, 0, true, false, false},
			{2, 19, 6, 2, 10, 4, true, false, false},
			{1, 40, 4, 4, 32, 0, false, true, true},
			{3, 33, 3, 1, 64, 9, true, false, true},
			{1, 130, 4, 1, 256, 50, true, false, false},
		} {
			rope := RoPE{Dims: c.headDim, Base: 1000, Scale: 1, Traditional: c.neighbours}
			positions, visible := make([]int32, 0), make([]int32, 0)
			seen := make([]bool, 0)
			random := rand.New(rand.NewPCG(1, 2))
			for range c.rows {
				begin := 0
				for at := range c.tokens {
					if c.segments && random.IntN(6) == 0 {
						begin = at
					}
					first := begin
					if c.window > 0 {
						first = max(begin, at+1-c.window)
					}
					positions, visible = append(positions, int32(at)), append(visible, 0, 0, int32(first), 0, int32(at+1))
					for key := range c.tokens {
						seen = append(seen, key >= first && key <= at)
					}
				}
			}
			rotation := s.Rotation(s.FromInts(positions, c.rows, c.tokens), rope)
			sees := s.FromInts(visible, c.rows, c.tokens, VisibleSize)
			mask := Mask{Array: s.FromBools(seen, c.rows, 1, c.tokens, c.tokens)}
			var qNorm, kNorm *Array
			if c.normed {
				qNorm, kNorm = s.Normal(dtype, 1, s.RandomKey(7), c.headDim), s.Normal(dtype, 1, s.RandomKey(8), c.headDim)
			}
			const eps, scale = 1e-6, 0.2
			f := differentiable{
				kernels: func(s *Scope, in []*Array) []*Array {
					out, _ := s.Attend(Attention{
						Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.headDim, Eps: eps, Scale: scale,
						Neighbours: c.neighbours, QNorm: qNorm, KNorm: kNorm, DType: dtype,
					}, in[0], rotation, sees, make([]PastKV, c.rows), false)
					return []*Array{out}
				},
				mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
					x := s.Transpose(s.Reshape(s.AsType(in[0], dtype), c.rows, c.tokens, c.heads+2*c.kvHeads, c.headDim), 0, 2, 1, 3)
					part := func(first, n int, norm *Array, rotated bool) *Array {
						y := s.Contiguous(s.Slice(x, 1, first, first+n))
						if norm != nil {
							y = s.RMSNorm(y, s.AsType(norm, dtype), eps)
						}
						if rotated {
							y = s.RoPE(y, rope, 0)
						}
						return y
					}
					q, k, v := part(0, c.heads, qNorm, true), part(c.heads, c.kvHeads, kNorm, true), part(c.heads+c.kvHeads, c.kvHeads, nil, false)
					out := s.SDPA(q, k, v, scale, mask)
					return []*Array{s.Reshape(s.Transpose(out, 0, 2, 1, 3), c.rows, c.tokens, c.heads*c.headDim)}
				},
			}
			x := s.Normal(Float32, 1, s.RandomKey(3), c.rows, c.tokens, (c.heads+2*c.kvHeads)*c.headDim)
			requireGradients(t, l, s, dtype, f, []*Array{x}, fmt.Sprint(c))
		}
	})
}

func TestGradientsOfTheCrossEntropy(t *testing.T) {
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		for _, c := range []struct{ rows, in, vocabulary, bits, group int }{
			{1, 1, 1, 0, 0},
			{3, 20, 33, 0, 0},
			{70, 64, 5000, 0, 0}, // more than a piece
			{1030, 32, 100, 0, 0},
			{5, 64, 4099, 4, 32},
			{9, 128, 9000, 8, 64},
		} {
			layer, matrix := weights(s, dtype, 2, c.in, c.vocabulary, c.bits, c.group)
			ids := make([]int32, c.rows)
			for i := range ids {
				ids[i] = int32((i * 2503) % c.vocabulary)
			}
			targets := s.FromInts(ids, c.rows)
			f := differentiable{
				kernels: func(s *Scope, in []*Array) []*Array { return []*Array{s.CrossEntropy(in[0], layer, targets, true)} },
				mlx: func(s *Scope, in []*Array, dtype DType) []*Array {
					logits := s.Matmul(in[0], s.AsType(matrix, dtype))
					return []*Array{s.Subtract(s.LogSumExp(logits, -1, false), s.Squeeze(s.TakeAlong(logits, s.ExpandDims(targets, -1), -1), -1))}
				},
			}
			x := s.Normal(dtype, 3, s.RandomKey(3), c.rows, c.in)
			if c.vocabulary > 1 { // the loss of one output is 0
				requireGradients(t, l, s, dtype, f, []*Array{x}, fmt.Sprint(c))
			}
			with := floats(t, s.CrossEntropy(x, layer, targets, true))
			require.Equal(t, with, floats(t, s.CrossEntropy(x, layer, targets, false)))
		}
	})
}

func TestWhatHasNoGradientSaysSo(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		x, w := s.Normal(Float32, 1, s.RandomKey(1), 2, 8), s.Normal(Float32, 1, s.RandomKey(2), 4, 8)
		targets := s.FromInts([]int32{1, 2}, 2)
		for name, fn := range map[string]func(s *Scope, in []*Array) []*Array{
			"a linear layer has no gradient of weights": func(s *Scope, in []*Array) []*Array {
				return []*Array{s.Apply(x, NoGate, true, false, Layer{Weights: in[0]})}
			},
			"has no gradient of weights, positions or ids": func(s *Scope, in []*Array) []*Array {
				return []*Array{s.CrossEntropy(x, Layer{Weights: in[0]}, targets, true)}
			},
		} {
			failed := s.Child()
			out := fn(failed, []*Array{w})
			_, _ = l.VJP(failed, fn, []*Array{w}, []*Array{failed.Zeros(Float32, out[0].Shape()...)})
			require.ErrorContains(t, failed.Err(), name)
			failed.Close()
		}
		failed := s.Child()
		_, _ = l.VJP(failed, func(s *Scope, in []*Array) []*Array {
			return []*Array{s.CrossEntropy(in[0], Layer{Weights: w}, targets, false)}
		}, []*Array{x}, []*Array{failed.Zeros(Float32, 2)})
		require.ErrorContains(t, failed.Err(), "without its slopes")
		failed.Close()
	})
}

func TestLoRAsThatDoNotFitAreRefused(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		x, w := s.Zeros(Float32, 2, 8), Layer{Weights: s.Zeros(Float32, 4, 8)}
		for _, lora := range []LoRA{
			{A: s.Zeros(Float32, 7, 3), B: s.Zeros(Float32, 3, 4)},
			{A: s.Zeros(Float32, 8, 3), B: s.Zeros(Float32, 3, 5)},
			{A: s.Zeros(Float32, 8, 3), B: s.Zeros(Float32, 2, 4)},
			{A: s.Zeros(BFloat16, 8, 3), B: s.Zeros(Float32, 3, 4)},
			{A: s.Zeros(Float32, 8), B: s.Zeros(Float32, 3, 4)},
		} {
			failed := s.Child()
			failed.Adapted(x, false, []Layer{w}, []LoRA{lora})
			require.ErrorContains(t, failed.Err(), "LoRA")
			failed.Close()
		}
	})
}

// The gradients are right for every instruction set that this processor has, which a process chooses when it starts.
func TestGradientsOnEveryLevel(t *testing.T) {
	ran := 0
	for _, level := range []string{"base", "avx2", "avx512", "avx512bf16", "amx", "neon"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestGradientsOf")
		cmd.Env = append(os.Environ(), "GO_MLX_CPU="+level)
		out, err := cmd.CombinedOutput()
		if bytes.Contains(out, []byte("this processor has")) {
			continue
		}
		require.NoError(t, err, "%s: %s", level, out)
		ran++
	}
	require.Positive(t, ran)
}
