package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// config is config.json: the raw text, from which each architecture reads its own struct, and what all
// of them share.
type config struct {
	raw       []byte // of the text model: text_config where there is one
	modelType string // of the text model's file, e.g. "gemma3_text"
	eos       []int32
	context   int
}

// multimodal maps the model type of a checkpoint with several parts to that of its text part.
var multimodal = map[string]string{"gemma3": "gemma3_text"}

func readConfig(from *modelfiles.Source) (*config, error) {
	const path = "config.json"
	data, err := from.Read(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.Dir, err)
	}
	if data, err = modelfiles.CleanConfig(data); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(from.Dir, path), err)
	}
	var top struct {
		ModelType  string          `json:"model_type"`
		TextConfig json.RawMessage `json:"text_config"`
		VocabSize  *int            `json:"vocab_size"`
		EOS        tokenList       `json:"eos_token_id"`
	}
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if top.ModelType == "" {
		return nil, fmt.Errorf("%s: no model_type", path)
	}
	c := &config{raw: data, modelType: top.ModelType, eos: top.EOS}
	if text, ok := multimodal[top.ModelType]; ok {
		if len(top.TextConfig) == 0 {
			return nil, fmt.Errorf("%s: model_type %q without text_config", path, top.ModelType)
		}
		c.raw, c.modelType = top.TextConfig, text
	}
	var shared struct {
		Context int `json:"max_position_embeddings"`
	}
	if err := json.Unmarshal(c.raw, &shared); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.context = shared.Context
	c.readGenerationConfig(from)
	return c, nil
}

// readGenerationConfig prefers the end tokens of generation_config.json, as mlx-lm does; which also passes over a file that it
// cannot read.
func (c *config) readGenerationConfig(from *modelfiles.Source) {
	var generation struct {
		EOS tokenList `json:"eos_token_id"`
	}
	data, err := from.Read("generation_config.json")
	if err == nil && modelfiles.Unmarshal(data, &generation) == nil && len(generation.EOS) > 0 {
		c.eos = generation.EOS
	}
}

// readJSON reads a file into a value.
func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := modelfiles.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// tokenList reads one id or a list of ids. null, alone or in the list, is no id: encoding/json would make it id 0.
type tokenList []int32

func (l *tokenList) UnmarshalJSON(data []byte) error {
	var one *int32
	many := []*int32{}
	if json.Unmarshal(data, &one) == nil {
		many = append(many, one)
	} else if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	*l = nil
	for _, id := range many {
		if id != nil {
			*l = append(*l, *id)
		}
	}
	return nil
}

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
