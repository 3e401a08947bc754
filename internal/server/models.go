package server

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/ollama"
	"forge.lthn.ai/core/go-mlx/internal/server/openai"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// modelEntry is a model in the lists of OpenAI's and Anthropic's APIs, whose clients ask at the same address.
type modelEntry struct {
	ID            string `json:"id"`
	Object        string `json:"object"`
	Created       int64  `json:"created"`
	OwnedBy       string `json:"owned_by"`
	Type          string `json:"type"`
	DisplayName   string `json:"display_name"`
	CreatedAt     string `json:"created_at"`
	ContextLength int    `json:"context_length,omitzero"`
	MaxModelLen   int    `json:"max_model_len,omitzero"` // the same, as vLLM's clients look for it
}

// modified is when a model was written: its config, or its file or folder where there is none.
func modified(path string) time.Time {
	if place, err := mlx.Locate(path); err == nil { // of a name on the hub
		path = place
	}
	for _, file := range []string{filepath.Join(path, "config.json"), path} {
		if info, err := os.Stat(file); err == nil {
			return info.ModTime()
		}
	}
	return time.Unix(0, 0)
}

func (s *Server) entryOf(name, path string) modelEntry {
	created := modified(path)
	e := modelEntry{
		ID: name, Object: "model", Created: max(0, created.Unix()), OwnedBy: "go-mlx", Type: "model", DisplayName: name,
		CreatedAt: created.UTC().Format(time.RFC3339),
	}
	if facts, err := s.facts.Of(path); err == nil { // a model with broken files says so when it is loaded
		e.ContextLength, e.MaxModelLen = facts.ContextLength, facts.ContextLength
	}
	return e
}

// entries are the models, and the aliases that are whole names.
func (s *Server) entries() (list []modelEntry) {
	paths := map[string]string{}
	for _, state := range s.config.Models.State().Models {
		paths[state.Name] = state.Path
		list = append(list, s.entryOf(state.Name, state.Path))
	}
	for _, a := range s.config.Aliases {
		if _, taken := paths[a.Pattern]; !taken && !strings.ContainsAny(a.Pattern, `*?[\`) {
			list = append(list, s.entryOf(a.Pattern, paths[a.Name]))
		}
	}
	return list
}

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) error {
	list := s.entries()
	return s.writeJSON(r.Context(), w, http.StatusOK, map[string]any{
		"object": "list", "data": list, "has_more": false, "first_id": list[0].ID, "last_id": list[len(list)-1].ID,
	})
}

func (s *Server) getModel(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	for _, e := range s.entries() {
		if e.ID == name {
			return s.writeJSON(r.Context(), w, http.StatusOK, e)
		}
	}
	resolved, err := s.resolve(name)
	if err != nil {
		return err
	}
	path, err := s.config.Models.Path(resolved)
	if err != nil {
		return &mlx.UnknownModelError{Name: name, Known: s.config.Models.Names()}
	}
	return s.writeJSON(r.Context(), w, http.StatusOK, s.entryOf(name, path))
}

func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) error {
	var q openai.EmbeddingRequest
	if _, err := s.decode(w, r, openai.EmbeddingFields, &q); err != nil {
		return err
	}
	visitOf(r.Context()).names = turn.Names{"Prompt": "input"}
	if err := q.Check(); err != nil {
		return err
	}
	if err := s.choose(&q.Model); err != nil {
		return err
	}
	return s.withModel(w, r, q.Model, func(ctx context.Context, m mlx.TextModel) (any, error) {
		a, err := q.Answer(ctx, m)
		if err == nil {
			visitOf(ctx).count(a.Usage.PromptTokens, 0)
		}
		return a, err
	})
}

// kept answers with something of the store of responses.
func (s *Server) kept(get func(id string, query url.Values) (any, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		value, err := get(r.PathValue("id"), r.URL.Query())
		if err != nil {
			return err
		}
		return s.writeJSON(r.Context(), w, http.StatusOK, value)
	}
}

// ollamaModel is a model as Ollama's clients know it.
func (s *Server) ollamaModel(state mlx.ModelState) ollama.Model {
	m := ollama.Model{
		Name: state.Name, Model: state.Name, ModifiedAt: modified(state.Path).UTC(), Size: state.WeightFiles,
		Details: ollama.Details{Format: "safetensors", Families: []string{}},
	}
	if facts, err := s.facts.Of(state.Path); err == nil {
		m.Details.Family, m.Details.Families = facts.Architecture, []string{facts.Architecture}
	}
	if state.Model != nil {
		info := state.Model.Info()
		m.Details.QuantizationLevel = info.Quantization
		m.Details.ParameterSize = parameterSize(info.Parameters)
	}
	return m
}

func (s *Server) ollamaEmbed(w http.ResponseWriter, r *http.Request) error {
	var q ollama.EmbedRequest
	if _, err := s.decode(w, r, ollama.EmbedFields, &q); err != nil {
		return err
	}
	visitOf(r.Context()).names = turn.Names{"Prompt": "input"}
	if err := q.Check(); err != nil {
		return err
	}
	if err := s.choose(&q.Model); err != nil {
		return err
	}
	return s.withModel(w, r, q.ModelName(), func(ctx context.Context, m mlx.TextModel) (any, error) {
		a, tokens, err := q.Answer(ctx, m)
		visitOf(ctx).count(tokens, 0)
		return a, err
	})
}
