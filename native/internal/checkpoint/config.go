package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// Config is config.json: the raw text, from which each architecture reads its own struct, and what all
// of them share.
type Config struct {
	Raw       []byte // of the text model: text_config where there is one
	ModelType string // of the text model's file, e.g. "gemma3_text"
	EOS       []int32
	Context   int
}

// multimodal maps the model type of a checkpoint with several parts to that of its text part.
var multimodal = map[string]string{"gemma3": "gemma3_text"}

// ReadConfig reads config.json, and the end tokens of generation_config.json.
func ReadConfig(from *modelfiles.Source) (*Config, error) {
	const path = "config.json"
	data, err := from.Read(path)
	if err != nil {
		return nil, err // names the file
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
	if err := modelfiles.UnmarshalConfig(data, &top); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if top.ModelType == "" {
		return nil, fmt.Errorf("%s: no model_type", path)
	}
	c := &Config{Raw: data, ModelType: top.ModelType, EOS: top.EOS}
	if text, ok := multimodal[top.ModelType]; ok {
		if !bytes.HasPrefix(top.TextConfig, []byte("{")) {
			return nil, fmt.Errorf("%s: model_type %q without a text_config, which should be an object", path, top.ModelType)
		}
		c.Raw, c.ModelType = top.TextConfig, text
	}
	var shared struct {
		Context int `json:"max_position_embeddings"`
	}
	if err := modelfiles.UnmarshalConfig(c.Raw, &shared); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.Context = shared.Context
	c.readGenerationConfig(from)
	return c, nil
}

// readGenerationConfig prefers the end tokens of generation_config.json, as mlx-lm does; which also passes over a file that it
// cannot read.
func (c *Config) readGenerationConfig(from *modelfiles.Source) {
	var generation struct {
		EOS tokenList `json:"eos_token_id"`
	}
	data, err := from.Read("generation_config.json")
	if err == nil && modelfiles.UnmarshalSettings(data, &generation) == nil && len(generation.EOS) > 0 {
		c.EOS = generation.EOS
	}
}

// ReadJSON reads a file into a value.
func ReadJSON(path string, into any) error {
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

// UnmarshalJSON takes one id, a list, or null.
func (l *tokenList) UnmarshalJSON(data []byte) error {
	var one *float64
	many := []*float64{}
	if json.Unmarshal(data, &one) == nil {
		many = append(many, one)
	} else if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	*l = nil
	for _, id := range many {
		switch {
		case id == nil:
		case *id != math.Trunc(*id):
			return fmt.Errorf("%v is no token id", *id)
		case math.Abs(*id) > math.MaxInt32:
			*l = append(*l, -1) // which no token has either
		default:
			*l = append(*l, int32(*id))
		}
	}
	return nil
}
