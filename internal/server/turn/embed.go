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
		text, n := p.Text, len(p.IDs)
		if n > 0 {
			text, err = m.Tokenizer().Decode(ctx, p.IDs)
		} else {
			var ids []int32
			ids, err = m.Tokenizer().Encode(ctx, text, true)
			n = len(ids)
		}
		if err != nil {
			return nil, 0, err
		}
		// Token ids that only mark where texts begin and end are text to clients, and get the vector of an empty one.
		if text == "" && len(p.IDs) == 0 {
			return nil, 0, Bad(fmt.Sprintf("%s[%d]", field, i), "there is no text")
		}
		texts, tokens = append(texts, text), tokens+n
	}
	return texts, tokens, nil
}
