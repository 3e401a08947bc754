package train

import (
	"math"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) as MLX's optimizers compute it: without correction of the bias.
const (
	adamBeta1, adamBeta2 = 0.9, 0.999
	adamEps              = 1e-8
)

// adamW is one update of a parameter with its moments. rate is float32.
func adamW(s *mlxc.Scope, parameter, m, v, gradient, rate *mlxc.Array, decay float64) (nextParameter, nextM, nextV *mlxc.Array) {
	dtype := gradient.DType()
	number := func(x float64) *mlxc.Array { return s.Scalar(x, dtype) }
	rate = s.AsType(rate, dtype)
	decayed := s.Multiply(parameter, s.Subtract(number(1), s.Multiply(rate, number(decay))))
	m = s.Add(s.Multiply(number(adamBeta1), m), s.Multiply(number(1-adamBeta1), gradient))
	v = s.Add(s.Multiply(number(adamBeta2), v), s.Multiply(number(1-adamBeta2), s.Multiply(gradient, gradient)))
	step := s.Divide(s.Multiply(rate, m), s.Add(s.Sqrt(v), number(adamEps)))
	return s.Subtract(decayed, step), m, v
}

// learningRate is that of an update, counted from 0, of so many.
func learningRate(o engine.TrainOptions, update, updates int) float64 {
	if update < o.Warmup {
		return o.LearningRate * float64(update) / float64(o.Warmup)
	}
	done := float64(update-o.Warmup) / float64(max(1, updates-o.Warmup))
	switch o.Schedule {
	case "linear":
		return o.LearningRate * (1 - min(done, 1))
	case "cosine":
		return o.LearningRate * 0.5 * (1 + math.Cos(math.Pi*min(done, 1)))
	}
	return o.LearningRate
}
