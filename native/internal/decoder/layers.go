package decoder

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// splitHeads makes [B, T, heads*head_dim] into [B, heads, T, head_dim].
func splitHeads(s *mlxc.Scope, x *mlxc.Array, heads int) *mlxc.Array {
	return s.Transpose(s.Reshape(x, x.Dim(0), x.Dim(1), heads, -1), 0, 2, 1, 3)
}

// callOne runs a compiled function of one result.
func callOne(s *mlxc.Scope, f *mlxc.Function, in ...*mlxc.Array) *mlxc.Array {
	out := f.Call(s, in...)
	if len(out) != 1 {
		return in[0] // the error is latched
	}
	return out[0]
}

// warm traces and builds a compiled function of the given number of operands [1, 1, width] now, so that
// the first request is not slower than the others and the function's constants are part of what the
// model holds from the start.
func warm(parent *mlxc.Scope, f *mlxc.Function, operands int, dtype mlxc.DType, width int) error {
	s := parent.Child()
	zero := s.Zeros(dtype, 1, 1, width)
	err := s.Eval(callOne(s, f, slices.Repeat([]*mlxc.Array{zero}, operands)...))
	return errors.Join(err, s.Close())
}

// largest is what no size of a model exceeds. Larger ones are broken or hostile, and memory is set aside for some of them.
const largest = 1 << 24

// checkPositive names the first config value that is not positive, or that is a size and too large.
func checkPositive(values map[string]int) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if values[name] < 1 {
			return fmt.Errorf("%s %d is not positive", name, values[name])
		}
		if values[name] > largest && name != "sliding_window" { // which some models switch off by a number
			return fmt.Errorf("%s %d is more than any model has", name, values[name])
		}
	}
	return nil
}

// checkFloats names the first config value that is no positive number in float32. eps may be zero.
func checkFloats(eps float64, values map[string]float64) error {
	if !(eps >= 0 && eps <= math.MaxFloat32) {
		return fmt.Errorf("rms_norm_eps %v is not a number from zero on", eps)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !(values[name] > 0 && values[name] <= math.MaxFloat32) {
			return fmt.Errorf("%s %v is not positive, or too large", name, values[name])
		}
	}
	return nil
}

// LogProbs normalises logits, in their type, by the CPU kernel or as mlx-lm does.
func LogProbs(s *mlxc.Scope, logits *mlxc.Array, kernels bool) *mlxc.Array {
	if kernels {
		return s.LogSoftmax(logits)
	}
	return s.Subtract(logits, s.LogSumExp(logits, -1, true))
}

// LogSoftmax is log-probabilities in float32 whatever the logits' type: means over labels are compared
// in small differences.
func LogSoftmax(s *mlxc.Scope, logits *mlxc.Array) *mlxc.Array {
	return LogProbs(s, s.AsType(logits, mlxc.Float32), false)
}
