package turn

import (
	"context"
	"fmt"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Embedding is a request for the vectors of texts, some of which may be token ids.
type Embedding struct {
	Input      Prompts
	Field      string // where the request has the input
	PromptName string // one of the model's own prompts; "" for none
	Dimensions int    // 0 for all
}

// Vectors embeds the input; tokens is how many it has. Token ids go to the model as they are.
func (e *Embedding) Vectors(ctx context.Context, m mlx.TextModel) (vectors [][]float32, tokens int, err error) {
	texts, ids := make([]string, len(e.Input)), make([][]int32, len(e.Input))
	given := false // some as ids
	for i, p := range e.Input {
		at := fmt.Sprintf("%s[%d]", e.Field, i)
		if err := p.inVocabulary(m, at); err != nil {
			return nil, 0, err
		}
		if len(p.IDs) > 0 {
			ids[i], given = p.IDs, true
			tokens += len(p.IDs)
			continue
		}
		if err := fits(m, len(p.Text)); err != nil {
			return nil, 0, err
		}
		encoded, err := m.Tokenizer().Encode(ctx, p.Text, true)
		if err != nil {
			return nil, 0, err
		}
		if p.Text == "" || len(encoded) == 0 {
			return nil, 0, Bad(at, "there is no text")
		}
		texts[i] = p.Text
		tokens += len(encoded)
	}
	options := []mlx.EmbedOption{mlx.WithPromptName(e.PromptName)}
	if e.Dimensions != 0 {
		options = append(options, mlx.WithDimensions(e.Dimensions))
	}
	if given {
		options = append(options, mlx.WithTokenIDs(ids))
	}
	vectors, err = m.Embed(ctx, texts, options...)
	return vectors, tokens, err
}

// inVocabulary refuses token ids that the model does not have; at is where the request has them.
func (p Prompt) inVocabulary(m mlx.TextModel, at string) error {
	size := m.Info().VocabSize
	for _, id := range p.IDs {
		if id < 0 || size > 0 && int(id) >= size {
			return Bad(at, "the vocabulary of %d tokens has no id %d", size, id)
		}
	}
	return nil
}
