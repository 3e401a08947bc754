package decoder

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// A pass as one op has the bits of the same pass op by op, in prefill and token by token, and so has the KV that it leaves.
func TestAPassAsOneOpHasTheBitsOfSingleOps(t *testing.T) {
	n := openNetwork(t, engine.NativeOptions{})
	if !n.Shape.Rings {
		return // there is only the other kind
	}
	ids := someIDs(80) // more than a sliding window
	require.NoError(t, n.Do(t.Context(), func() (err error) {
		s := n.Lease.NewScope()
		states := []*kv.Sequence{n.NewSequence(), n.NewSequence()}
		defer func() { err = errors.Join(err, states[0].Free(), states[1].Free(), s.Close()) }()
		for begin, next := 0, 0; begin < len(ids); begin = next {
			next = begin + 1
			if begin == 0 {
				next = 60
			}
			var results [2][]float32
			for i, stepwise := range []bool{false, true} {
				row := s.FromInts(ids[begin:next], 1, next-begin)
				pass := kv.NewPass(s, states[i:i+1], next-begin)
				if stepwise {
					pass.Observe = func(int, string, *mlxc.Array) {}
				}
				h := n.cpu.Hidden(s, row, pass)
				if results[i], err = s.AsType(h, mlxc.Float32).Floats(); err != nil {
					return err
				}
			}
			require.Equal(t, results[0], results[1], "tokens %d to %d", begin, next)
		}
		for layer := range n.Shape.Windows {
			var held [2][][]float32
			for i, st := range states {
				_, keys, values := kv.Save(s, st.Caches[layer])
				for _, a := range []*mlxc.Array{keys, values} {
					numbers, err := s.AsType(a, mlxc.Float32).Floats()
					require.NoError(t, err)
					held[i] = append(held[i], numbers)
				}
			}
			require.Equal(t, held[0], held[1], "layer %d", layer)
		}
		return nil
	}))
}

// KV that two sequences share is not written over by either; KV of one alone is written where it is.
func TestSharedKVIsNotWrittenInPlace(t *testing.T) {
	n := openNetwork(t, engine.NativeOptions{})
	if !n.Shape.Rings {
		return
	}
	require.NoError(t, n.Do(t.Context(), func() (err error) {
		s := n.Lease.NewScope()
		first := n.NewSequence()
		defer func() { err = errors.Join(err, first.Free(), s.Close()) }()
		step := func(st *kv.Sequence, id int32) []float32 {
			values, err := s.AsType(n.Run(s, st, s.FromInts([]int32{id}, 1, 1)), mlxc.Float32).Floats()
			require.NoError(t, err)
			return values
		}
		for id := range int32(20) {
			step(first, 300+id)
		}
		second := first.Share(s)
		defer func() { err = errors.Join(err, second.Free()) }()
		a := step(first, 400)
		step(second, 500)
		require.Equal(t, step(first, 401), func() []float32 {
			third := n.NewSequence()
			defer func() { err = errors.Join(err, third.Free()) }()
			for id := range int32(20) {
				step(third, 300+id)
			}
			require.Equal(t, a, step(third, 400))
			return step(third, 401)
		}())
		return nil
	}))
}
