package openai

import (
	"context"
	"strings"
	"unicode/utf8"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

type chatLogProbs struct {
	Content []tokenLogProb  `json:"content"`
	Refusal *[]tokenLogProb `json:"refusal"`
}

// topLogProb is a token as OpenAI's chat API shows it. Bytes are null for a token that is a part of a character.
type topLogProb struct {
	Token   string  `json:"token"`
	LogProb float32 `json:"logprob"`
	Bytes   *[]int  `json:"bytes"`
}

// tokenLogProb is a token of the answer, with the most likely ones in its place; none, unless they were asked for.
type tokenLogProb struct {
	topLogProb
	TopLogProbs []topLogProb `json:"top_logprobs"`
}

// finite is a log-probability as JSON can say it: of a token that cannot come, OpenAI's number for next to nothing.
func finite(logProb float32) float32 { return max(logProb, -9999) }

// describe gives tokens with their log-probabilities.
func describe(ctx context.Context, texts *turn.TokenTexts, tokens []mlx.Token) ([]tokenLogProb, error) {
	out := []tokenLogProb{}
	for _, tok := range tokens {
		one, err := describeOne(ctx, texts, tok.ID, tok.LogProb)
		if err != nil {
			return nil, err
		}
		d := tokenLogProb{topLogProb: one, TopLogProbs: []topLogProb{}}
		for _, top := range tok.TopLogProbs {
			other, err := describeOne(ctx, texts, top.ID, top.LogProb)
			if err != nil {
				return nil, err
			}
			d.TopLogProbs = append(d.TopLogProbs, other)
		}
		out = append(out, d)
	}
	return out, nil
}

func describeOne(ctx context.Context, texts *turn.TokenTexts, id int32, logProb float32) (topLogProb, error) {
	text, err := texts.Of(ctx, id)
	d := topLogProb{Token: text, LogProb: finite(logProb)}
	if !strings.ContainsRune(text, utf8.RuneError) {
		bytes := make([]int, len(text))
		for i := range len(text) {
			bytes[i] = int(text[i])
		}
		d.Bytes = &bytes
	}
	return d, err
}
