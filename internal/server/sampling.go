package server

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
)

// sampling are the fields about drawing tokens, which OpenAI's APIs and this server's own share.
type sampling struct {
	Temperature      *float32           `json:"temperature"`
	TopP             *float32           `json:"top_p"`
	Seed             *uint64            `json:"seed"`
	PresencePenalty  *float32           `json:"presence_penalty"`
	FrequencyPenalty *float32           `json:"frequency_penalty"`
	LogitBias        map[string]float32 `json:"logit_bias"`

	// What OpenAI's APIs do not have; named as in mlx_lm.server.
	TopK                  *int     `json:"top_k"`
	MinP                  *float32 `json:"min_p"`
	RepetitionPenalty     *float32 `json:"repetition_penalty"`
	RepetitionContextSize *int     `json:"repetition_context_size"`
	XTCProbability        *float32 `json:"xtc_probability"`
	XTCThreshold          *float32 `json:"xtc_threshold"`
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
func (p *sampling) options(c generationConfig) ([]mlx.GenerateOption, error) {
	var out []mlx.GenerateOption
	add(&out, p.Temperature, c.Temperature, mlx.WithTemperature)
	add(&out, p.TopP, c.TopP, mlx.WithTopP)
	add(&out, p.TopK, c.TopK, mlx.WithTopK)
	add(&out, p.MinP, c.MinP, mlx.WithMinP)
	add(&out, p.RepetitionPenalty, c.RepetitionPenalty, mlx.WithRepetitionPenalty)
	add(&out, p.RepetitionContextSize, nil, mlx.WithRepetitionContext)
	add(&out, p.PresencePenalty, nil, mlx.WithPresencePenalty)
	add(&out, p.FrequencyPenalty, nil, mlx.WithFrequencyPenalty)
	add(&out, p.Seed, nil, mlx.WithSeed)
	if p.XTCThreshold != nil && p.XTCProbability == nil {
		return nil, badField("xtc_threshold", "goes with xtc_probability")
	}
	if p.XTCProbability != nil {
		threshold := float32(0.1)
		if p.XTCThreshold != nil {
			threshold = *p.XTCThreshold
		}
		out = append(out, mlx.WithXTC(*p.XTCProbability, threshold))
	}
	if len(p.LogitBias) > 0 {
		bias := map[int32]float32{}
		for token, value := range p.LogitBias {
			id, err := strconv.ParseInt(token, 10, 32)
			if err != nil {
				return nil, badField("logit_bias", "%q is not a token id", token)
			}
			bias[int32(id)] = value
		}
		out = append(out, mlx.WithLogitBias(bias))
	}
	return out, nil
}

// add appends an option for a value that is given, or else for its default.
func add[T any](out *[]mlx.GenerateOption, value, otherwise *T, option func(T) mlx.GenerateOption) {
	if value == nil {
		value = otherwise
	}
	if value != nil {
		*out = append(*out, option(*value))
	}
}

// seedFor gives each of several answers to one request draws of its own.
func (p *sampling) seedFor(choice int) []mlx.GenerateOption {
	if p.Seed == nil || choice == 0 {
		return nil
	}
	return []mlx.GenerateOption{mlx.WithSeed(*p.Seed + uint64(choice))}
}

// maxTokens is the limit of an answer.
func (s *Server) maxTokens(given ...*int) mlx.GenerateOption {
	for _, n := range given {
		if n != nil {
			return mlx.WithMaxTokens(*n)
		}
	}
	return mlx.WithMaxTokens(s.config.MaxTokens)
}

// jsonFormat is a wish for JSON, as several APIs write it.
type jsonFormat struct {
	kind   string // "text", "json_object" or "json_schema"; "" is text
	schema jsontext.Value
}

// option makes the text follow the format.
func (f jsonFormat) option(field string) ([]mlx.GenerateOption, error) {
	switch f.kind {
	case "", "text":
		return nil, nil
	case "json_object":
		return []mlx.GenerateOption{mlx.WithJSONSchema([]byte(`{"type":"object"}`))}, nil
	case "json_schema":
		if len(f.schema) == 0 {
			return nil, badField(field, "there is no schema")
		}
		return []mlx.GenerateOption{mlx.WithJSONSchema(f.schema)}, nil
	}
	return nil, badField(field+".type", "%q; there are text, json_object and json_schema", f.kind)
}
