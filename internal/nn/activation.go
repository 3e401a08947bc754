package nn

import (
	"math"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// GELUApprox is 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016,
// arXiv:1606.08415), in the order of operations of mlx.nn so that results are the same to the bit.
func GELUApprox(s *mlxc.Scope, x *mlxc.Array) *mlxc.Array {
	c := func(v float64) *mlxc.Array { return s.Scalar(v, x.DType()) }
	cube := s.Multiply(c(0.044715), s.Power(x, c(3)))
	inner := s.Multiply(c(math.Sqrt(2/math.Pi)), s.Add(x, cube))
	return s.Multiply(s.Multiply(c(0.5), x), s.Add(c(1), s.Tanh(inner)))
}

// SiLU is x sigmoid(x).
func SiLU(s *mlxc.Scope, x *mlxc.Array) *mlxc.Array { return s.Multiply(x, s.Sigmoid(x)) }
