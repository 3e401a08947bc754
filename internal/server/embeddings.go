package server

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"

	mlx "forge.lthn.ai/core/go-mlx"
)

// embeddingRequest is the body of /v1/embeddings.
type embeddingRequest struct {
	Model          string    `json:"model"`
	Input          oneOrMany `json:"input"`
	EncodingFormat string    `json:"encoding_format"`
	Dimensions     int       `json:"dimensions"`
	User           string    `json:"user"`
	PromptName     string    `json:"prompt_name"` // one of the model's own prompts, such as "query"
}

type embedding struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // floats, or their little-endian bytes in base64
}

func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) error {
	var q embeddingRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	switch {
	case len(q.Input) == 0:
		return badField("input", "there is none")
	case q.EncodingFormat != "" && q.EncodingFormat != "float" && q.EncodingFormat != "base64":
		return badField("encoding_format", "%q; there are float and base64", q.EncodingFormat)
	}
	lease, err := s.acquire(w, r, q.Model)
	if err != nil {
		return err
	}
	defer lease.Release()
	vectors, err := lease.Model.Embed(r.Context(), q.Input, mlx.WithPromptName(q.PromptName), mlx.WithDimensions(q.Dimensions))
	if err != nil {
		return err
	}
	tokens := 0
	for _, text := range q.Input {
		ids, err := lease.Model.Tokenizer().Encode(r.Context(), text, true)
		if err != nil {
			return err
		}
		tokens += len(ids)
	}
	visitOf(r.Context()).count(tokens, 0)
	data := make([]embedding, len(vectors))
	for i, v := range vectors {
		data[i] = embedding{"embedding", i, v}
		if q.EncodingFormat == "base64" {
			data[i].Embedding = packed(v)
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"object": "list", "model": q.Model, "data": data, "usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens},
	})
	return nil
}

func packed(vector []float32) string {
	var data []byte
	for _, x := range vector {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(data)
}
