//go:build cuda

package fused

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// `make test-cuda`, on a machine with an NVIDIA GPU: the kernel computes what MLX's products do, for any number of rows.
func TestProjectComputesWhatMLXDoes(t *testing.T) {
	lease, err := mlxc.Acquire()
	require.NoError(t, err)
	defer func() { require.NoError(t, lease.Release(func() {})) }()
	var failure error
	require.NoError(t, lease.Do(t.Context(), func() {
		s := lease.NewScope()
		defer s.Close()
		for _, dtype := range []mlxc.DType{mlxc.BFloat16, mlxc.Float16} {
			k, err := New(s, lease, Shape{Heads: 4, KVHeads: 1, HeadDim: 256, HiddenSize: 1152, Intermediate: 6912, DType: dtype})
			if err != nil {
				failure = err
				return
			}
			defer k.Close()
			for _, size := range [][2]int{{1152, 1536}, {6912, 1152}, {128, 48}} {
				weight := s.Normal(dtype, 0.05, s.RandomKey(1), size[1], size[0])
				format := mlxc.Quantization{GroupSize: 64, Bits: 4}
				packed, scales, biases := s.Quantize(weight, format)
				for name, l := range map[string][2]*nn.Linear{ // MLX compiles its own products of packed weights for minutes
					"plain": {nn.NewLinear(s, weight), nn.NewLinear(s, weight)},
					"4-bit": {nn.NewLinear(s, s.Dequantize(packed, scales, biases, format)), nn.NewQuantizedLinear(packed, scales, biases, format)},
				} {
					for _, rows := range []int{2, 8, 13, 32, 65, 128} {
						x := s.Normal(dtype, 1, s.RandomKey(2), 1, rows, size[0])
						want, err := s.AsType(l[0].Apply(s, x), mlxc.Float32).Floats()
						if err == nil {
							var got []float32
							if got, err = s.AsType(k.Project(s, x, l[1]), mlxc.Float32).Floats(); err == nil {
								err = near(want, got, 0.01)
							}
						}
						if err != nil {
							failure = fmt.Errorf("%v, %s, %d rows of %v: %w", dtype, name, rows, size, err)
							return
						}
					}
				}
			}
		}
	}))
	require.NoError(t, failure)
}

// near bounds ||got - want|| / ||want||.
func near(want, got []float32, bound float64) error {
	if len(want) != len(got) {
		return fmt.Errorf("%d values, want %d", len(got), len(want))
	}
	if relative := testenv.RelativeDifference(want, got); !(relative < bound) {
		return fmt.Errorf("relative difference %g", relative)
	}
	return nil
}
