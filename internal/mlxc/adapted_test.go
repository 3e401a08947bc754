package mlxc

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// An A that lies column by column, as that of a loaded adapter does, is used as it is.
func TestAnAThatLiesColumnByColumnGivesTheSameBits(t *testing.T) {
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		const rows, in, out = 19, 100, 90
		for _, rank := range []int{1, 5, 16} {
			layer, _ := weights(s, dtype, 1, in, out, 0, 0)
			x, dy := s.Normal(dtype, 1, s.RandomKey(4), rows, in), s.Normal(Float32, 1, s.RandomKey(5), rows, out)
			a, b := s.Normal(Float32, 0.3, s.RandomKey(2), in, rank), s.Normal(Float32, 0.3, s.RandomKey(3), rank, out)
			pass := func(a *Array) (values [][]float32) {
				y, d := l.VJP(s, func(s *Scope, given []*Array) []*Array {
					return []*Array{s.Adapted(given[0], false, []Layer{layer}, []LoRA{{A: given[1], B: given[2], Scale: 2}})}
				}, []*Array{x, a, b}, []*Array{dy})
				require.NoError(t, s.Err())
				for _, array := range append(y, d...) {
					values = append(values, floats(t, s.AsType(array, Float32)))
				}
				return values
			}
			byColumns := s.Transpose(s.Contiguous(s.Transpose(a)))
			require.NoError(t, s.Eval(byColumns))
			require.Equal(t, pass(a), pass(byColumns), "rank %d", rank)
		}
	})
}

// What a LoRA adds to a row, and what comes back to it, have the same bits alone, beside others, and on any number of threads.
func TestBitsOfAdaptedRowsDependOnNothingElse(t *testing.T) {
	before := CPUThreads()
	defer SetCPUThreads(before)
	eachType(t, func(t *testing.T, l *Lease, s *Scope, dtype DType) {
		const rows, in, out, rank = 70, 100, 90, 5
		layer, _ := weights(s, dtype, 1, in, out, 0, 0)
		lora := LoRA{A: s.Normal(Float32, 0.3, s.RandomKey(2), in, rank), B: s.Normal(Float32, 0.3, s.RandomKey(3), rank, out), Scale: 2}
		adapted := func(s *Scope, in []*Array) []*Array {
			return []*Array{s.Adapted(in[0], false, []Layer{layer}, []LoRA{lora})}
		}
		x, dy := s.Normal(dtype, 1, s.RandomKey(4), rows, in), s.Normal(Float32, 1, s.RandomKey(5), rows, out)
		pass := func(first, last int) (values, gradients []float32) {
			y, dx := l.VJP(s, adapted, []*Array{s.Slice(x, 0, first, last)}, []*Array{s.Slice(dy, 0, first, last)})
			require.NoError(t, s.Err())
			return floats(t, y[0]), floats(t, s.AsType(dx[0], Float32))
		}
		SetCPUThreads(2)
		values, gradients := pass(0, rows)
		for _, threads := range []int{1, 3} {
			SetCPUThreads(threads)
			for _, some := range [][2]int{{0, rows}, {0, 1}, {17, 18}, {30, 63}} {
				y, dx := pass(some[0], some[1])
				require.Equal(t, values[some[0]*out:some[1]*out], y, "%d threads, rows %v", threads, some)
				require.Equal(t, gradients[some[0]*in:some[1]*in], dx, "%d threads, rows %v", threads, some)
			}
		}
	})
}
