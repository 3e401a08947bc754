package server

import (
	"fmt"
	"net/http"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/ollama"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// ollamaVersion is the version of Ollama's API that this one is like; clients compare it with what they need.
const ollamaVersion = "0.9.0"

var showFields = turn.NewTable("POST /api/show", turn.Honour("model", "name"), turn.NoEffect("everything is shown", "verbose", "system", "template", "options"))

func parameterSize(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1fK", float64(n)/1e3)
}

func (s *Server) ollamaTags(w http.ResponseWriter, r *http.Request) error {
	list := ollama.List{Models: []ollama.Model{}}
	for _, state := range s.config.Models.State().Models {
		list.Models = append(list.Models, s.ollamaModel(state))
	}
	return s.writeJSON(r.Context(), w, http.StatusOK, list)
}

// ollamaPS lists the models that are loaded. They have no time to expire unless the server was given one.
func (s *Server) ollamaPS(w http.ResponseWriter, r *http.Request) error {
	list := ollama.List{Models: []ollama.Model{}}
	for _, state := range s.config.Models.State().Models {
		if state.Model == nil {
			continue
		}
		m := s.ollamaModel(state)
		info := state.Model.Info()
		expires := time.Now().Add(100 * 365 * 24 * time.Hour).UTC()
		m.ExpiresAt, m.SizeVRAM, m.ContextLength = &expires, &info.WeightBytes, info.ContextLength
		list.Models = append(list.Models, m)
	}
	return s.writeJSON(r.Context(), w, http.StatusOK, list)
}

func (s *Server) ollamaVersion(w http.ResponseWriter, r *http.Request) error {
	return s.writeJSON(r.Context(), w, http.StatusOK, map[string]string{"version": ollamaVersion})
}

func (s *Server) ollamaShow(w http.ResponseWriter, r *http.Request) error {
	var q ollama.ShowRequest
	if _, err := s.decode(w, r, showFields, &q); err != nil {
		return err
	}
	name, err := s.resolve(q.ModelName())
	if err != nil {
		return err
	}
	for _, state := range s.config.Models.State().Models {
		if state.Name != name {
			continue
		}
		facts, err := s.facts.Of(state.Path)
		if err != nil {
			return err
		}
		m := s.ollamaModel(state)
		show := ollama.Show{
			Template: facts.Template, Details: m.Details, ModifiedAt: m.ModifiedAt, Capabilities: []string{"completion"},
			ModelInfo: map[string]any{"general.architecture": facts.Architecture, facts.Architecture + ".context_length": facts.ContextLength},
		}
		if facts.KnowsTools() {
			show.Capabilities = append(show.Capabilities, "tools")
		}
		if facts.SwitchesThinking() {
			show.Capabilities = append(show.Capabilities, "thinking")
		}
		return s.writeJSON(r.Context(), w, http.StatusOK, show)
	}
	return &mlx.UnknownModelError{Name: name, Known: s.config.Models.Names()}
}
