package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/engine"
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

func readConfig(dir string) (*config, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("not a model folder: %w", err)
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
	return c, c.readGenerationConfig(dir)
}

// readGenerationConfig prefers the end tokens of generation_config.json, as mlx-lm does.
func (c *config) readGenerationConfig(dir string) error {
	path := filepath.Join(dir, "generation_config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var generation struct {
		EOS tokenList `json:"eos_token_id"`
	}
	if err := json.Unmarshal(data, &generation); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(generation.EOS) > 0 {
		c.eos = generation.EOS
	}
	return nil
}

// tokenList reads one id or a list of ids.
type tokenList []int32

func (l *tokenList) UnmarshalJSON(data []byte) error {
	var one int32
	if json.Unmarshal(data, &one) == nil {
		*l = tokenList{one}
		return nil
	}
	return json.Unmarshal(data, (*[]int32)(l))
}

// ropeScaling is the rope_scaling object of a config.
type ropeScaling struct {
	Type   string  `json:"rope_type"`
	Legacy string  `json:"type"`
	Factor float64 `json:"factor"`
}

// linearScale is what positions are multiplied by.
func (r *ropeScaling) linearScale() (float32, error) {
	if r == nil {
		return 1, nil
	}
	kind := r.Type
	if r.Legacy != "" {
		kind = r.Legacy
	}
	switch kind {
	case "", "default":
		return 1, nil
	case "linear":
		if r.Factor <= 0 {
			return 0, fmt.Errorf("rope_scaling: factor %v is not positive", r.Factor)
		}
		return float32(1 / r.Factor), nil
	}
	return 0, fmt.Errorf("rope_scaling type %q: %w", kind, engine.ErrUnsupported)
}
