package turn

import (
	"context"
	"sync"

	mlx "forge.lthn.ai/core/go-mlx"
)

// TokenTexts remembers the texts of a model's tokens for one request.
type TokenTexts struct {
	Tokenizer mlx.Tokenizer
	known     sync.Map
}

// Of is the text of one token.
func (t *TokenTexts) Of(ctx context.Context, id int32) (string, error) {
	if text, ok := t.known.Load(id); ok {
		return text.(string), nil
	}
	text, err := t.Tokenizer.Decode(ctx, []int32{id})
	if err != nil {
		return "", err
	}
	t.known.Store(id, text)
	return text, nil
}
