package decoder

import (
	"errors"
	"fmt"
	"math"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// ropeScaling is the rope_scaling object of a config.
type ropeScaling struct {
	Type   string  `json:"rope_type"`
	Legacy string  `json:"type"`
	Factor float64 `json:"factor"`

	// Of the type "llama3".
	LowFreqFactor   float64 `json:"low_freq_factor"`
	HighFreqFactor  float64 `json:"high_freq_factor"`
	OriginalContext float64 `json:"original_max_position_embeddings"`
}

func (r *ropeScaling) kind() string {
	switch {
	case r == nil:
		return ""
	case r.Legacy != "":
		return r.Legacy
	}
	return r.Type
}

// rope is the position embedding of a model without scaling, with linear scaling, or with that of Llama 3.
func (r *ropeScaling) rope(owner *mlxc.Scope, headDim int, theta float64) (mlxc.RoPE, error) {
	if r.kind() == "llama3" {
		freqs, err := r.llama3Freqs(owner, headDim, theta)
		return mlxc.RoPE{Dims: headDim, Scale: 1, Freqs: freqs}, err
	}
	scale, err := r.linearScale()
	return mlxc.RoPE{Dims: headDim, Base: float32(theta), Scale: scale}, err
}

// llama3Freqs are the wavelengths of Llama 3.1 (arXiv:2407.21783): those longer than the context that the
// model was first trained with are stretched by the factor, short ones stay, and between the two bounds
// they are blended.
func (r *ropeScaling) llama3Freqs(owner *mlxc.Scope, headDim int, theta float64) (_ *mlxc.Array, err error) {
	if r.Factor == 0 {
		r.Factor = 1
	}
	if r.LowFreqFactor == 0 {
		r.LowFreqFactor = 1
	}
	if r.HighFreqFactor == 0 {
		r.HighFreqFactor = 4
	}
	if r.OriginalContext == 0 {
		r.OriginalContext = 8192
	}
	if r.Factor < 0 || r.LowFreqFactor < 0 || r.HighFreqFactor <= r.LowFreqFactor || r.OriginalContext < 0 {
		return nil, fmt.Errorf("rope_scaling: factors %v, %v, %v over a context of %v make no sense",
			r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OriginalContext)
	}
	s := owner.Child() // what is computed on the way does not stay with the weights
	defer func() { err = errors.Join(err, s.Close()) }()
	// With MLX's own ops, as mlx-lm computes them, so that the bits are the same.
	f32 := func(v float64) *mlxc.Array { return s.Scalar(v, mlxc.Float32) }
	exponents := s.Divide(s.AsType(s.SliceStep(s.Arange(0, headDim, mlxc.Int32), 0, 0, headDim, 2), mlxc.Float32), f32(float64(headDim)))
	freqs := s.Power(f32(theta), exponents)
	wavelengths := s.Multiply(f32(2*math.Pi), freqs)
	low, high := r.OriginalContext/r.LowFreqFactor, r.OriginalContext/r.HighFreqFactor
	freqs = s.Where(s.Greater(wavelengths, f32(low)), s.Multiply(freqs, f32(r.Factor)), freqs)
	medium := s.LogicalAnd(s.Greater(wavelengths, f32(high)), s.Less(wavelengths, f32(low)))
	smooth := s.Divide(s.Subtract(s.Divide(f32(r.OriginalContext), wavelengths), f32(r.LowFreqFactor)), f32(r.HighFreqFactor-r.LowFreqFactor))
	blended := s.Divide(freqs, s.Add(s.Divide(s.Subtract(f32(1), smooth), f32(r.Factor)), smooth))
	freqs = s.Where(medium, blended, freqs)
	if err := s.Eval(freqs); err != nil {
		return nil, err
	}
	return owner.Adopt(freqs), nil
}

// linearScale is what positions are multiplied by.
func (r *ropeScaling) linearScale() (float32, error) {
	switch r.kind() {
	case "", "default":
		return 1, nil
	case "linear":
		if r.Factor <= 0 {
			return 0, fmt.Errorf("rope_scaling: factor %v is not positive", r.Factor)
		}
		return float32(1 / r.Factor), nil
	}
	return 0, fmt.Errorf("rope_scaling type %q: %w", r.kind(), engine.ErrUnsupported)
}
