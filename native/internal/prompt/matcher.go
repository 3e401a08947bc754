package prompt

import (
	"fmt"
	"maps"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

// NewMatcher returns nil without a grammar. The tokens' bytes are prepared when a grammar is first used.
func (e *Encoder) NewMatcher(g engine.Grammar) (*tokenizer.Matcher, error) {
	if g.Kind == "" {
		return nil, nil
	}
	e.grammarOnce.Do(func() {
		eos := slices.Sorted(maps.Keys(e.EOS))
		eos = slices.DeleteFunc(eos, func(id int32) bool { return id < 0 || int(id) >= e.VocabSize })
		e.vocabulary, e.grammarErr = e.Tokenizer.NewVocabulary(e.VocabSize, eos)
	})
	if e.grammarErr != nil {
		return nil, fmt.Errorf("option %s: %w", g.Option(), Explain(e.grammarErr))
	}
	matcher, err := e.vocabulary.NewMatcher(g.Kind, g.Text)
	if err != nil {
		if err = Explain(err); err == engine.ErrClosed {
			return nil, err
		}
		return nil, &engine.OptionError{Option: g.Option(), Reason: err.Error()}
	}
	return matcher, nil
}
