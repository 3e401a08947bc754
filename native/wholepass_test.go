package native

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// A pass as one op has the bits of the same pass op by op, in prefill and token by token, and so has the KV that it leaves.
func TestAPassAsOneOpHasTheBitsOfSingleOps(t *testing.T) {
	m := open(t)
	if !m.shape.kernels {
		return // there is only the other kind
	}
	ids := make([]int32, 80) // more than a sliding window
	for i := range ids {
		ids[i] = int32(300 + i*7%900)
	}
	require.NoError(t, m.do(t.Context(), func() (err error) {
		s := m.lease.NewScope()
		states := []*decodeState{newDecodeState(m.shape), newDecodeState(m.shape)}
		defer func() { err = errors.Join(err, states[0].free(), states[1].free(), s.Close()) }()
		for begin, next := 0, 0; begin < len(ids); begin = next {
			next = begin + 1
			if begin == 0 {
				next = 60
			}
			var results [2][]float32
			for i, stepwise := range []bool{false, true} {
				row := s.FromInts(ids[begin:next], 1, next-begin)
				pass := passOver(states[i:i+1], next-begin)
				pass.stepwise = stepwise
				h := m.cpu.hidden(s, row, states[i], pass)
				if results[i], err = s.AsType(h, mlxc.Float32).Floats(); err != nil {
					return err
				}
			}
			require.Equal(t, results[0], results[1], "tokens %d to %d", begin, next)
		}
		for layer := range m.shape.windows {
			var kv [2][][]float32
			for i, st := range states {
				_, keys, values := nn.Save(s, st.caches[layer])
				for _, a := range []*mlxc.Array{keys, values} {
					numbers, err := s.AsType(a, mlxc.Float32).Floats()
					require.NoError(t, err)
					kv[i] = append(kv[i], numbers)
				}
			}
			require.Equal(t, kv[0], kv[1], "layer %d", layer)
		}
		return nil
	}))
}

// KV that two sequences share is not written over by either; KV of one alone is written where it is.
func TestSharedKVIsNotWrittenInPlace(t *testing.T) {
	m := open(t)
	if !m.shape.kernels {
		return
	}
	require.NoError(t, m.do(t.Context(), func() (err error) {
		s := m.lease.NewScope()
		first := newDecodeState(m.shape)
		defer func() { err = errors.Join(err, first.free(), s.Close()) }()
		step := func(st *decodeState, id int32) []float32 {
			values, err := s.AsType(m.pass(s, st, s.FromInts([]int32{id}, 1, 1)), mlxc.Float32).Floats()
			require.NoError(t, err)
			return values
		}
		for id := range int32(20) {
			step(first, 300+id)
		}
		second := first.share(s)
		defer func() { err = errors.Join(err, second.free()) }()
		a := step(first, 400)
		step(second, 500)
		require.Equal(t, step(first, 401), func() []float32 {
			third := newDecodeState(m.shape)
			defer func() { err = errors.Join(err, third.free()) }()
			for id := range int32(20) {
				step(third, 300+id)
			}
			require.Equal(t, a, step(third, 400))
			return step(third, 401)
		}())
		return nil
	}))
}
