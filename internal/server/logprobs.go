package server

import (
	"context"
	"strings"
	"sync"
	"unicode/utf8"

	mlx "forge.lthn.ai/core/go-mlx"
)

// tokenTexts remembers the texts of a model's tokens for one request.
type tokenTexts struct {
	tokenizer mlx.Tokenizer
	known     sync.Map
}

func (t *tokenTexts) of(ctx context.Context, id int32) (string, error) {
	if text, ok := t.known.Load(id); ok {
		return text.(string), nil
	}
	text, err := t.tokenizer.Decode(ctx, []int32{id})
	if err != nil {
		return "", err
	}
	t.known.Store(id, text)
	return text, nil
}

// tokenLogProb is a token as OpenAI's chat API shows it. Bytes are null for a token that is a part of a character.
type tokenLogProb struct {
	Token       string         `json:"token"`
	LogProb     float32        `json:"logprob"`
	Bytes       []int          `json:"bytes"`
	TopLogProbs []tokenLogProb `json:"top_logprobs,omitempty"`
}

// describe gives tokens with their log-probabilities. List says whether the most likely ones are listed.
func (t *tokenTexts) describe(ctx context.Context, tokens []mlx.Token, list bool) ([]tokenLogProb, error) {
	out := make([]tokenLogProb, 0, len(tokens))
	for _, tok := range tokens {
		d, err := t.one(ctx, tok.ID, tok.LogProb)
		if err != nil {
			return nil, err
		}
		if list {
			d.TopLogProbs = make([]tokenLogProb, 0, len(tok.TopLogProbs))
			for _, top := range tok.TopLogProbs {
				other, err := t.one(ctx, top.ID, top.LogProb)
				if err != nil {
					return nil, err
				}
				d.TopLogProbs = append(d.TopLogProbs, other)
			}
		}
		out = append(out, d)
	}
	return out, nil
}

func (t *tokenTexts) one(ctx context.Context, id int32, logProb float32) (tokenLogProb, error) {
	text, err := t.of(ctx, id)
	d := tokenLogProb{Token: text, LogProb: logProb}
	if !strings.ContainsRune(text, utf8.RuneError) {
		d.Bytes = make([]int, len(text))
		for i := range len(text) {
			d.Bytes[i] = int(text[i])
		}
	}
	return d, err
}
