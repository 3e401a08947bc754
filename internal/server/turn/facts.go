package turn

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// Facts are what the server knows of a model by the small files of its folder, and what it found out about its chat template.
type Facts struct {
	Template      string // Jinja source; "" for none
	ContextLength int    // 0 when not known
	Architecture  string
	defaults      generationConfig

	mu    sync.Mutex // guards what follows
	takes map[string]bool
	marks *segment.Marks
}

// SwitchesThinking reports whether the chat template has a switch for reasoning.
func (f *Facts) SwitchesThinking() bool { return strings.Contains(f.Template, "enable_thinking") }

// KnowsTools reports whether the chat template has a place for tools.
func (f *Facts) KnowsTools() bool { return strings.Contains(f.Template, "tools") }

// FactBook reads each model's files once.
type FactBook struct{ byPath sync.Map }

// Of returns the facts of a folder.
func (b *FactBook) Of(path string) (*Facts, error) {
	if known, ok := b.byPath.Load(path); ok {
		return known.(*Facts), nil
	}
	f := &Facts{takes: map[string]bool{}}
	var err error
	if f.Template, err = modelfiles.AllTemplates(path); err != nil {
		return nil, err
	}
	if f.defaults, err = readGenerationConfig(path); err != nil {
		return nil, err
	}
	f.readConfig(path)
	kept, _ := b.byPath.LoadOrStore(path, f)
	return kept.(*Facts), nil
}

// readConfig looks for what lists of models tell; a model with a broken config.json says so when it is loaded.
func (f *Facts) readConfig(path string) {
	type sizes struct {
		Type    string `json:"model_type"`
		Context int    `json:"max_position_embeddings"`
	}
	var c struct {
		sizes
		Text sizes `json:"text_config"`
	}
	from, err := modelfiles.Find(path)
	if err != nil {
		return
	}
	data, err := from.Read("config.json")
	if err != nil || modelfiles.UnmarshalSettings(data, &c) != nil {
		return
	}
	f.Architecture, f.ContextLength = c.Type, max(c.Context, c.Text.Context)
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
	if err := modelfiles.UnmarshalSettings(data, &c); err != nil {
		return generationConfig{}, nil // the engines pass over it too, as mlx-lm does
	}
	if c.DoSample != nil && !*c.DoSample {
		c = generationConfig{RepetitionPenalty: c.RepetitionPenalty}
	}
	return c, nil
}

// thinkMarks are the marks around a thought; empty for a model that does not think.
func (f *Facts) thinkMarks(ctx context.Context, model mlx.TextModel) (segment.Marks, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.marks != nil {
		return *f.marks, nil
	}
	var failed error
	marks := segment.Thinking(func(token string) bool {
		ids, err := model.Tokenizer().Encode(ctx, token, false)
		failed = errors.Join(failed, err)
		return len(ids) == 1
	})
	if failed == nil {
		f.marks = &marks
	}
	return marks, failed
}
