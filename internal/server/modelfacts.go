package server

import (
	"errors"
	"os"
	"strings"
	"sync"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// modelFacts are what the server knows of a model from the small files of its folder.
type modelFacts struct {
	template string // Jinja source; "" for none
	defaults generationConfig
}

// switchesThinking reports whether the chat template has a switch for reasoning.
func (f modelFacts) switchesThinking() bool { return strings.Contains(f.template, "enable_thinking") }

// factBook reads each model's files once.
type factBook struct{ byPath sync.Map }

func (b *factBook) of(path string) (modelFacts, error) {
	if known, ok := b.byPath.Load(path); ok {
		return known.(modelFacts), nil
	}
	var f modelFacts
	var err error
	if f.template, err = modelfiles.ChatTemplate(path); err != nil {
		return f, err
	}
	if f.defaults, err = readGenerationConfig(path); err != nil {
		return f, err
	}
	b.byPath.Store(path, f)
	return f, nil
}

func readGenerationConfig(path string) (generationConfig, error) {
	var c generationConfig
	from, err := modelfiles.Find(path)
	if err != nil {
		return c, err
	}
	data, err := from.Read("generation_config.json")
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := modelfiles.Unmarshal(data, &c); err != nil {
		return generationConfig{}, nil // the engines pass over it too, as mlx-lm does
	}
	if c.DoSample != nil && !*c.DoSample {
		c = generationConfig{RepetitionPenalty: c.RepetitionPenalty}
	}
	return c, nil
}
