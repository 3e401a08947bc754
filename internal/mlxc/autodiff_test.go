package mlxc

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// f(x, y) = sum(x^2 y): df/dx = 2 x y, df/dy = x^2.
func product(s *Scope, in []*Array) []*Array {
	return []*Array{s.Sum(s.Multiply(s.Multiply(in[0], in[0]), in[1]), 0, false)}
}

func TestGradientsAreThoseOfCalculus(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		x, y := s.FromFloats([]float32{1, 2, 3}, 3), s.FromFloats([]float32{4, 5, -6}, 3)
		g, err := l.ValueAndGrad(product, 1, 0)
		require.NoError(t, err)
		for range 2 {
			values, grads := g.Call(s, x, y)
			require.NoError(t, s.Err())
			require.Len(t, grads, 2)
			require.Equal(t, []float32{4 + 20 - 54}, floats(t, values[0]))
			require.Equal(t, []float32{8, 20, -36}, floats(t, grads[0]), "in the order of inputs, however they are named")
			require.Equal(t, []float32{1, 4, 9}, floats(t, grads[1]))
		}
		require.NoError(t, g.Close())
		require.NoError(t, g.Close())

		v := s.FromFloats([]float32{1, 0, 2}, 3)
		square := func(s *Scope, in []*Array) []*Array { return []*Array{s.Multiply(in[0], in[0])} }
		values, products := l.VJP(s, square, []*Array{x}, []*Array{v})
		require.NoError(t, s.Err())
		require.Equal(t, []float32{1, 4, 9}, floats(t, values[0]))
		require.Equal(t, []float32{2, 0, 12}, floats(t, products[0]))
		values, products = l.JVP(s, square, []*Array{x}, []*Array{v})
		require.NoError(t, s.Err())
		require.Equal(t, []float32{1, 4, 9}, floats(t, values[0]))
		require.Equal(t, []float32{2, 0, 12}, floats(t, products[0]))
	})
}

// The gradient of a chain of ops is near the difference quotient, checkpointed or not.
func TestGradientsAreDifferenceQuotients(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		chain := func(s *Scope, in []*Array) []*Array {
			return []*Array{s.Sum(s.Tanh(s.Multiply(s.Exp(in[0]), in[0])), 0, false)}
		}
		kept := func(s *Scope, in []*Array) []*Array { return s.Checkpointed(chain, in[0]) }
		at := []float32{0.3, -0.7, 0.1}
		value := func(i int, delta float64) float64 {
			moved := append([]float32(nil), at...)
			moved[i] += float32(delta)
			sum := 0.0
			for _, x := range moved {
				sum += math.Tanh(math.Exp(float64(x)) * float64(x))
			}
			return sum
		}
		var plain []float32
		for _, fn := range []func(*Scope, []*Array) []*Array{chain, kept} {
			g, err := l.ValueAndGrad(fn, 0)
			require.NoError(t, err)
			_, grads := g.Call(s, s.FromFloats(at, 3))
			require.NoError(t, s.Err())
			got := floats(t, grads[0])
			for i := range at {
				require.InDelta(t, (value(i, 1e-3)-value(i, -1e-3))/2e-3, got[i], 1e-3)
			}
			if plain != nil {
				require.Equal(t, plain, got)
			}
			plain = got
			require.NoError(t, g.Close())
		}
	})
}

func TestErrorsOfADifferentiatedFunctionComeOut(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		_, err := l.ValueAndGrad(product)
		require.Error(t, err)
		boom := errors.New("boom")
		for _, fn := range []func(*Scope, []*Array) []*Array{
			func(s *Scope, in []*Array) []*Array { s.Fail(boom); return in },
			func(*Scope, []*Array) []*Array { panic(boom) },
			func(s *Scope, in []*Array) []*Array {
				return s.Checkpointed(func(s *Scope, in []*Array) []*Array { s.Fail(boom); return in }, in...)
			},
		} {
			inner := l.NewScope()
			g, err := l.ValueAndGrad(fn, 0)
			require.NoError(t, err)
			g.Call(inner, inner.Scalar(1, Float32))
			require.ErrorContains(t, inner.Err(), "boom")
			require.NoError(t, g.Close())
			_ = inner.Close()
		}
		inner := l.NewScope() // not a scalar
		g, err := l.ValueAndGrad(func(_ *Scope, in []*Array) []*Array { return in }, 0)
		require.NoError(t, err)
		g.Call(inner, inner.Zeros(Float32, 3))
		require.Error(t, inner.Err())
		require.NoError(t, g.Close())
		_ = inner.Close()
		l.VJP(inner, product, nil, nil)
	})
}

// MLX runs a checkpointed function again for its gradient. What goes wrong then is told as what goes wrong the first time.
func TestAFailureInsideACheckpointIsToldWhenItIsRunAgain(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		runs, reason := 0, errors.New("the second time")
		g, err := l.ValueAndGrad(func(s *Scope, in []*Array) []*Array {
			return s.Checkpointed(func(s *Scope, in []*Array) []*Array {
				if runs++; runs > 1 {
					s.Fail(reason)
				}
				return []*Array{s.SumAll(s.Exp(in[0]))}
			}, in[0])
		}, 0)
		require.NoError(t, err)
		failed := s.Child()
		g.Call(failed, s.FromFloats([]float32{1, 2}, 2))
		require.ErrorIs(t, failed.Err(), reason)
		require.Equal(t, 2, runs)
		require.NoError(t, failed.Close())
		require.NoError(t, g.Close())
	})
}
