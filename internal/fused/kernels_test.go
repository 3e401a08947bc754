//go:build linux

package fused_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// emulatedKernels are kernels whose launches run on the CPU. Each input must be in row-major order, but for those whose strides a kernel reads.
func emulatedKernels(t *testing.T, owner *mlxc.Scope, shape fused.Shape) *fused.Kernels {
	t.Helper()
	k, err := fused.NewEmulated(owner, shape, func(s *mlxc.Scope, source string, strided []bool, inputs []*mlxc.Array, out mlxc.Output) *mlxc.Array {
		var pointers [][]byte
		for i, a := range inputs {
			memory, strides, err := a.Memory()
			require.NoError(t, err)
			if step := 1; !strided[i] {
				for axis := a.NDim() - 1; axis >= 0; axis-- {
					require.True(t, strides[axis] == step || a.Dim(axis) == 1, "input %d of %v has strides %v", i, a.Shape(), strides)
					step *= a.Dim(axis)
				}
			}
			pointers = append(pointers, memory)
		}
		size := map[mlxc.DType]int{mlxc.Float32: 4, mlxc.Uint32: 4, mlxc.Float16: 2, mlxc.BFloat16: 2}[out.DType]
		count := 1
		for _, n := range out.Shape {
			count *= n
		}
		run := startProgram(t, source, append(pointers, make([]byte, size*count)))
		for _, p := range pointers {
			_, err := run.in.Write(p)
			require.NoError(t, err)
		}
		if out.DType == mlxc.Uint32 {
			values := make([]uint32, count)
			require.NoError(t, binary.Read(run.out, binary.NativeEndian, values))
			return s.FromUints(values, out.Shape...)
		}
		if out.DType == mlxc.Float32 {
			values := make([]float32, count)
			require.NoError(t, binary.Read(run.out, binary.NativeEndian, values))
			return s.FromFloats(values, out.Shape...)
		}
		words, values := make([]uint16, count), make([]float32, count)
		require.NoError(t, binary.Read(run.out, binary.NativeEndian, words))
		for i, w := range words {
			values[i] = number(w, out.DType == mlxc.Float16)
		}
		return s.AsType(s.FromFloats(values, out.Shape...), out.DType)
	})
	require.NoError(t, err)
	return k
}

func requireNear(t *testing.T, s *mlxc.Scope, want, got *mlxc.Array, bound float64, what string) {
	t.Helper()
	require.NoError(t, s.Err(), what)
	require.Equal(t, want.Shape(), got.Shape(), what)
	a, err := s.AsType(want, mlxc.Float32).Floats()
	require.NoError(t, err, what)
	b, err := s.AsType(got, mlxc.Float32).Floats()
	require.NoError(t, err, what)
	difference := testenv.RelativeDifference(a, b)
	require.False(t, math.IsNaN(difference), what)
	require.Less(t, difference, bound, what)
}

// The kernels of compiled passes, run on the CPU, compute what MLX's ops do.
func TestTheKernelsOfPassesComputeWhatMLXDoes(t *testing.T) {
	types := []mlxc.DType{mlxc.BFloat16}
	if testenv.Slow() { // to compile them takes most of the time
		types = append(types, mlxc.Float16)
	}
	for _, dtype := range types {
		t.Run(dtype.String(), func(t *testing.T) {
			onThread(t, func(s *mlxc.Scope) {
				shape := fused.Shape{
					Heads: 4, KVHeads: 2, HeadDim: 64, HiddenSize: 128, Intermediate: 96, QKNorm: true, PostNorm: true, GELU: true, RMSNormEps: 1e-6,
					AttentionScale: 0.125, DType: dtype,
				}
				k := emulatedKernels(t, s, shape)
				seed := uint64(0)
				random := func(dims ...int) *mlxc.Array {
					seed++
					return s.Normal(dtype, 1, s.RandomKey(seed), dims...)
				}
				floats := func(a *mlxc.Array) *mlxc.Array { return s.AsType(a, mlxc.Float32) }
				const b, tokens = 2, 3

				qkv, qNorm, kNorm := random(b, tokens, 8*64), random(64), random(64)
				rope := mlxc.RoPE{Dims: 64, Base: 10000, Scale: 1}
				starts := s.FromInts([]int32{5, 40}, b)
				positions := s.Add(s.ExpandDims(starts, 1), s.ExpandDims(s.Arange(0, tokens, mlxc.Int32), 0))
				q, keys, values := k.NormRope(s, qkv, qNorm, kNorm, positions, k.NewRotation(s, rope))
				heads := func(from, to int) *mlxc.Array {
					return s.Transpose(s.Slice(s.Reshape(qkv, b, tokens, 8, 64), 2, from, to), 0, 2, 1, 3)
				}
				requireNear(t, s, s.RoPEAt(s.RMSNorm(floats(heads(0, 4)), floats(qNorm), 1e-6), rope, starts), q, 0.01, "queries")
				requireNear(t, s, s.RoPEAt(s.RMSNorm(floats(heads(4, 6)), floats(kNorm), 1e-6), rope, starts), keys, 0.01, "keys")
				requireNear(t, s, heads(6, 8), values, 1e-9, "values")

				h, y, post, next := random(b, tokens, 128), random(b, tokens, 128), random(128), random(128)
				sums, normed := k.AddNorm(s, h, y, post, next)
				added := s.Add(floats(h), s.RMSNorm(floats(y), floats(post), 1e-6))
				requireNear(t, s, added, k.Sums(s, sums), 0.01, "sums")
				requireNear(t, s, s.RMSNorm(added, floats(next), 1e-6), normed, 0.01, "normed sums")

				gateUp := random(b, tokens, 2*96)
				requireNear(t, s, s.Multiply(nn.GELUApprox(s, floats(s.Slice(gateUp, 2, 0, 96))), floats(s.Slice(gateUp, 2, 96, 192))), k.Gate(s, gateUp), 0.02, "gate")

				ids := s.FromUints([]uint32{3, 0, 49, 7, 7, 1}, b, tokens)
				table := random(50, 128)
				requireNear(t, s, s.Take(table, ids, 0), k.Rows(s, table, ids, nil), 1e-9, "rows")

				for _, rows := range []int{2, 9, 17, 128} {
					x, weight := random(1, rows, 128), random(48, 128)
					format := mlxc.Quantization{GroupSize: 64, Bits: 4}
					packed, scales, biases := s.Quantize(weight, format)
					for name, l := range map[string][2]*nn.Linear{
						"plain": {nn.NewLinear(s, floats(weight)), nn.NewLinear(s, weight)},
						"4-bit": {nn.NewLinear(s, floats(s.Dequantize(packed, scales, biases, format))), nn.NewQuantizedLinear(packed, scales, biases, format)},
					} {
						requireNear(t, s, l[0].Apply(s, floats(x)), k.Project(s, x, l[1]), 0.01, fmt.Sprint(name, " of ", rows, " rows"))
					}
				}

				// Attention to the first of the keys of each row, by one kernel and by two, where the buffers are views of longer ones too.
				for name, c := range map[string]struct {
					rows, room int
					filled     []int32
				}{"two kernels": {2, 70, []int32{1, 70}}, "one kernel": {4, 70, []int32{1, 33, 64, 70}}} {
					query, all := random(c.rows, 4, 1, 64), random(c.rows, 2, c.room+9, 64)
					for view, pair := range map[string][2]*mlxc.Array{
						"": {random(c.rows, 2, c.room, 64), random(c.rows, 2, c.room, 64)}, " of views": {s.Slice(all, 2, 9, c.room+9), s.Slice(all, 2, 3, c.room+3)},
					} {
						got := k.AttendFilled(s, query, pair[0], pair[1], s.FromInts(c.filled, c.rows))
						for row, n := range c.filled {
							one := func(a *mlxc.Array) *mlxc.Array { return floats(s.Slice(a, 0, row, row+1)) }
							want := s.SDPA(one(query), s.Slice(one(pair[0]), 2, 0, int(n)), s.Slice(one(pair[1]), 2, 0, int(n)), 0.125, mlxc.Mask{})
							requireNear(t, s, want, s.Slice(got, 0, row, row+1), 0.02, fmt.Sprint(name, view, ", row ", row))
						}
					}
				}

				// A row of several texts after a prefix that they share.
				const past = 11
				query, pastKeys, pastValues := random(1, 4, tokens, 64), random(1, 2, past, 64), random(1, 2, past, 64)
				own, ownValues := random(1, 2, tokens, 64), random(1, 2, tokens, 64)
				visible := make([]bool, tokens*(past+tokens))
				for i := range visible {
					visible[i] = i%(past+tokens) < past || i%5 < 3
				}
				mask := s.FromBools(visible, tokens, past+tokens)
				want := s.SDPA(floats(query), floats(s.Concatenate(2, pastKeys, own)), floats(s.Concatenate(2, pastValues, ownValues)), 0.125, mlxc.Mask{Array: mask})
				got := k.AttendPacked(s, query, pastKeys, pastValues, own, ownValues, mask)
				requireNear(t, s, s.Reshape(s.Transpose(want, 0, 2, 1, 3), 1, tokens, 4*64), got, 0.02, "a packed row")

				picked := k.Picks(s, s.FromFloats([]float32{1, 2, 3, 4, 5, 6}, 2, 3), s.FromFloats([]float32{0.5, 1}, 2), s.FromInts([]int32{5, 0, 2}, 3), s.FromInts([]int32{1, 0, 0}, 3))
				requireNear(t, s, s.FromFloats([]float32{5, 0.5, 2.5}, 3), picked, 1e-9, "picks")
			})
		})
	}
}

// What a test has compiled: a source is compiled once.
var compiledOnce = map[string]string{}

func compileOnce(t *testing.T, source string) string {
	t.Helper()
	if path, ok := compiledOnce[source]; ok {
		return path
	}
	dir, err := os.MkdirTemp("", "go-mlx-emulated-*")
	require.NoError(t, err)
	t.Cleanup(func() {
		delete(compiledOnce, source)
		_ = os.RemoveAll(dir)
	})
	file, program := filepath.Join(dir, "kernel.cpp"), filepath.Join(dir, "kernel")
	require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
	compiler := os.Getenv("CXX")
	if compiler == "" {
		compiler = "c++"
	}
	said, err := exec.CommandContext(t.Context(), compiler, "-std=c++20", "-O1", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w", "-pthread", "-o", program, file).CombinedOutput()
	require.NoError(t, err, string(said))
	compiledOnce[source] = program
	return program
}
