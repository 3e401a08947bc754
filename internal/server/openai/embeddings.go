package openai

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"math"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// EmbeddingRequest is the body of /v1/embeddings; EmbeddingFields has what becomes of its fields.
type EmbeddingRequest struct {
	Model          string       `json:"model"`
	Input          turn.Prompts `json:"input"`
	EncodingFormat string       `json:"encoding_format"`
	Dimensions     turn.Count   `json:"dimensions"`
	PromptName     string       `json:"prompt_name"` // one of the model's own prompts, such as "query"
}

type embedding struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // floats, or their little-endian bytes in base64
}

// EmbeddingAnswer is what /v1/embeddings answers.
type EmbeddingAnswer struct {
	Object string      `json:"object"`
	Model  string      `json:"model"`
	Data   []embedding `json:"data"`
	Usage  struct {
		PromptTokens int `json:"prompt_tokens"`
		TotalTokens  int `json:"total_tokens"`
	} `json:"usage"`
}

// Check finds what is wrong with the request, before a model is loaded for it.
func (q *EmbeddingRequest) Check() error {
	switch {
	case len(q.Input) == 0:
		return turn.Bad("input", "there is none")
	case q.EncodingFormat != "" && q.EncodingFormat != "float" && q.EncodingFormat != "base64":
		return turn.Bad("encoding_format", "%q; there are float and base64", q.EncodingFormat)
	}
	return turn.AtMost("input", len(q.Input), turn.MaxEmbeddings, "texts")
}

// Answer embeds the texts.
func (q *EmbeddingRequest) Answer(ctx context.Context, m mlx.TextModel) (*EmbeddingAnswer, error) {
	e := turn.Embedding{Input: q.Input, Field: "input", PromptName: q.PromptName, Dimensions: int(q.Dimensions)}
	vectors, tokens, err := e.Vectors(ctx, m)
	if err != nil {
		return nil, err
	}
	a := &EmbeddingAnswer{Object: "list", Model: q.Model, Data: make([]embedding, len(vectors))}
	a.Usage.PromptTokens, a.Usage.TotalTokens = tokens, tokens
	for i, v := range vectors {
		a.Data[i] = embedding{"embedding", i, v}
		if q.EncodingFormat == "base64" {
			a.Data[i].Embedding = base64Of(v)
		}
	}
	return a, nil
}

// base64Of is a vector as clients of OpenAI decode it: base64 of little-endian float32.
func base64Of(vector []float32) string {
	var data []byte
	for _, x := range vector {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(data)
}
