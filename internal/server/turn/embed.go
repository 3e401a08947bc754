package turn

import (
	"context"
	"fmt"

	mlx "forge.lthn.ai/core/go-mlx"
)

// EmbeddingTexts are the texts of inputs that may be token ids, and how many tokens they have.
func EmbeddingTexts(ctx context.Context, m mlx.TextModel, field string, in Prompts) (texts []string, tokens int, err error) {
	size := m.Info().VocabSize
	for i, p := range in {
		for _, id := range p.IDs {
			if id < 0 || size > 0 && int(id) >= size {
				return nil, 0, Bad(fmt.Sprintf("%s[%d]", field, i), "the vocabulary of %d tokens has no id %d", size, id)
			}
		}
	}
	for i, p := range in {
		text := p.Text
		if err := fits(m, len(text)); err != nil {
			return nil, 0, err
		}
		if len(p.IDs) > 0 {
			text, err = m.Tokenizer().Decode(ctx, p.IDs)
		}
		ids := p.IDs
		// Ids that only mark where a text begins or ends have no text, and only some models give such an input a vector.
		if err == nil && (len(p.IDs) == 0 || text == "") {
			ids, err = m.Tokenizer().Encode(ctx, text, true)
		}
		if err != nil {
			return nil, 0, err
		}
		if len(ids) == 0 || text == "" && len(p.IDs) == 0 {
			return nil, 0, Bad(fmt.Sprintf("%s[%d]", field, i), "there is no text")
		}
		n := len(ids)
		if len(p.IDs) > 0 {
			n = len(p.IDs)
		}
		texts, tokens = append(texts, text), tokens+n
	}
	return texts, tokens, nil
}
