package turn

import (
	"strconv"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Sampling are the fields about drawing tokens, which OpenAI's APIs and this server's own share.
type Sampling struct {
	Temperature      *float32           `json:"temperature"`
	TopP             *float32           `json:"top_p"`
	Seed             *Seed              `json:"seed"`
	PresencePenalty  *float32           `json:"presence_penalty"`
	FrequencyPenalty *float32           `json:"frequency_penalty"`
	LogitBias        map[string]float32 `json:"logit_bias"`

	// What OpenAI's APIs do not have; named as in mlx_lm.server.
	TopK                  *Count   `json:"top_k"`
	MinP                  *float32 `json:"min_p"`
	RepetitionPenalty     *float32 `json:"repetition_penalty"`
	RepetitionContextSize *Count   `json:"repetition_context_size"`
	XTCProbability        *float32 `json:"xtc_probability"`
	XTCThreshold          *float32 `json:"xtc_threshold"`
}

// SamplingFields are the names of Sampling's fields.
func SamplingFields() []Field {
	return Honour("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "top_k", "min_p",
		"repetition_penalty", "repetition_context_size", "xtc_probability", "xtc_threshold")
}

// generationConfig is what a model's authors advise, in generation_config.json.
type generationConfig struct {
	DoSample          *bool    `json:"do_sample"`
	Temperature       *float32 `json:"temperature"`
	TopP              *float32 `json:"top_p"`
	TopK              *int     `json:"top_k"`
	MinP              *float32 `json:"min_p"`
	RepetitionPenalty *float32 `json:"repetition_penalty"`
}

// options are those of a request, over the model's own defaults.
func (p *Sampling) options(c generationConfig) ([]mlx.GenerateOption, error) {
	var out []mlx.GenerateOption
	var sampling []mlx.SamplingOption
	p = p.plain()
	add(&out, p.Temperature, c.Temperature, mlx.WithTemperature)
	add(&sampling, p.TopP, c.TopP, mlx.TopP)
	add(&sampling, p.TopK.Int(), c.TopK, mlx.TopK)
	add(&sampling, p.MinP, c.MinP, mlx.MinP)
	add(&sampling, p.RepetitionPenalty, c.RepetitionPenalty, mlx.RepetitionPenalty)
	add(&sampling, p.RepetitionContextSize.Int(), nil, mlx.RepetitionContext)
	add(&sampling, p.PresencePenalty, nil, mlx.PresencePenalty)
	add(&sampling, p.FrequencyPenalty, nil, mlx.FrequencyPenalty)
	out = append(out, p.seedFor(0)...)
	if p.XTCThreshold != nil && p.XTCProbability == nil {
		return nil, Bad("xtc_threshold", "goes with xtc_probability")
	}
	if p.XTCProbability != nil {
		threshold := float32(0.1)
		if p.XTCThreshold != nil {
			threshold = *p.XTCThreshold
		}
		sampling = append(sampling, mlx.XTC(*p.XTCProbability, threshold))
	}
	if err := AtMost("logit_bias", len(p.LogitBias), MaxBiases, "biases"); err != nil {
		return nil, err
	}
	if len(p.LogitBias) > 0 {
		bias := map[int32]float32{}
		for token, value := range p.LogitBias {
			id, err := strconv.ParseInt(token, 10, 32)
			if err != nil {
				return nil, Bad("logit_bias", "%q is not a token id", token)
			}
			bias[int32(id)] = value
		}
		sampling = append(sampling, mlx.LogitBias(bias))
	}
	return append(out, mlx.WithSampling(sampling...)), nil
}

// plain are the same wishes without what other servers have numbers of their own for.
func (p *Sampling) plain() *Sampling {
	own := *p
	if own.TopK != nil && *own.TopK == -1 { // as vLLM's clients say that all tokens may come
		own.TopK = new(Count)
	}
	if own.TopP != nil && *own.TopP == 0 { // as OpenAI's have it: none but the most likely token
		one, all := Count(1), float32(1)
		own.TopK, own.TopP = &one, &all
	}
	if own.RepetitionPenalty != nil && *own.RepetitionPenalty == 0 { // as mlx_lm.server's say that there is none
		none := float32(1)
		own.RepetitionPenalty = &none
	}
	return &own
}

// add appends an option for a value that is given, or else for its default.
func add[T, O any](out *[]O, value, otherwise *T, option func(T) O) {
	if value == nil {
		value = otherwise
	}
	if value != nil {
		*out = append(*out, option(*value))
	}
}

// seedFor gives each of several answers to one request draws of its own.
func (p *Sampling) seedFor(choice int) []mlx.GenerateOption {
	if p.Seed == nil {
		return nil
	}
	return []mlx.GenerateOption{mlx.WithSeed(uint64(*p.Seed) + uint64(choice))}
}
