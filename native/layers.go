package native

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/metal"
)

// splitHeads makes [B, T, heads*head_dim] into [B, heads, T, head_dim].
func splitHeads(s *metal.Scope, x *metal.Array, heads int) *metal.Array {
	return s.Transpose(s.Reshape(x, x.Dim(0), x.Dim(1), heads, -1), 0, 2, 1, 3)
}

// mergeHeads undoes splitHeads.
func mergeHeads(s *metal.Scope, x *metal.Array) *metal.Array {
	b, t := x.Dim(0), x.Dim(2)
	return s.Reshape(s.Transpose(x, 0, 2, 1, 3), b, t, -1)
}

// callOne runs a compiled function of one result.
func callOne(s *metal.Scope, f *metal.Function, in ...*metal.Array) *metal.Array {
	out := f.Call(s, in...)
	if len(out) != 1 {
		return in[0] // the error is latched
	}
	return out[0]
}

// warm traces and builds a compiled function of the given number of operands [1, 1, width] now, so that
// the first request is not slower than the others and the function's constants are part of what the
// model holds from the start.
func warm(parent *metal.Scope, f *metal.Function, operands int, dtype metal.DType, width int) error {
	s := parent.Child()
	zero := s.Zeros(dtype, 1, 1, width)
	err := s.Eval(callOne(s, f, slices.Repeat([]*metal.Array{zero}, operands)...))
	return errors.Join(err, s.Close())
}

// checkPositive names the first config value that is not positive.
func checkPositive(values map[string]int) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if values[name] < 1 {
			return fmt.Errorf("%s %d is not positive", name, values[name])
		}
	}
	return nil
}
