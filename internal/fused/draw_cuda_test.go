//go:build cuda

package fused_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// `make test-cuda`, on a machine with an NVIDIA GPU: the same with a large vocabulary, and how long it takes.
func TestTheKernelDrawsOnAGPU(t *testing.T) {
	lease, err := mlxc.Acquire()
	require.NoError(t, err)
	defer func() { require.NoError(t, lease.Release(func() {})) }()
	require.NoError(t, lease.Do(t.Context(), func() {
		s := lease.NewScope()
		defer s.Close()
		for _, dtype := range []mlxc.DType{mlxc.BFloat16, mlxc.Float16} {
			k, err := fused.New(s, lease, fused.Shape{Heads: 4, KVHeads: 1, HeadDim: 256, HiddenSize: 1152, Intermediate: 6912, DType: dtype})
			require.NoError(t, err)
			defer k.Close()
			for _, vocab := range []int{4160, 262144} {
				checkDraws(t, s, dtype, vocab, func(a ...*mlxc.Array) []uint32 {
					tokens, err := k.Draw(s, a[0], a[1], a[2], a[3]).Ints()
					require.NoError(t, err)
					return []uint32{uint32(tokens[0]), uint32(tokens[1])}
				})
			}
			for _, rows := range []int{1, 32} {
				drawing := fused.Drawing{Temperature: 1, TopP: 0.9, MinP: 0.01, TopK: 40}
				logits := s.Normal(dtype, 3, s.RandomKey(1), rows, 262144)
				which, settings, keys := s.Arange(0, rows, mlxc.Int32), s.Repeat(drawing.Settings(s), rows, 0), s.Repeat(s.Reshape(s.RandomKey(2), 1, 2), rows, 0)
				require.NoError(t, s.Eval(logits, which, settings, keys))
				const times = 200
				begin := time.Now()
				for range times {
					require.NoError(t, s.AsyncEval(k.Draw(s, logits, which, settings, keys)))
				}
				require.NoError(t, s.Synchronize())
				t.Logf("%v, %d rows of 262144: %v a launch", dtype, rows, time.Since(begin)/times)
			}
		}
	}))
}
