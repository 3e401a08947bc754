package server

import (
	"net/http"
	"os"
	"path/filepath"
	"time"

	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// modelEntry is a model in the lists of OpenAI's and Anthropic's APIs, whose clients ask at the same address.
type modelEntry struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	OwnedBy     string `json:"owned_by"`
	Type        string `json:"type"`
	DisplayName string `json:"display_name"`
	CreatedAt   string `json:"created_at"`
}

func entryOf(s registry.State) modelEntry {
	var created time.Time
	if info, err := os.Stat(filepath.Join(s.Path, "config.json")); err == nil {
		created = info.ModTime()
	}
	return modelEntry{s.Name, "model", max(0, created.Unix()), "go-mlx", "model", s.Name, created.UTC().Format(time.RFC3339)}
}

func (s *Server) listModels(w http.ResponseWriter, _ *http.Request) error {
	var list []modelEntry
	for _, state := range s.config.Models.States() {
		list = append(list, entryOf(state))
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"object": "list", "data": list, "has_more": false, "first_id": list[0].ID, "last_id": list[len(list)-1].ID,
	})
	return nil
}

func (s *Server) getModel(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	for _, state := range s.config.Models.States() {
		if state.Name == name {
			writeJSON(w, http.StatusOK, entryOf(state))
			return nil
		}
	}
	return &registry.UnknownModelError{Name: name, Known: s.config.Models.Names()}
}
