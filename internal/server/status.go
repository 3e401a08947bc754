package server

import (
	"context"
	"net/http"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// modelStatus is a model in the answer to /v1/status.
type modelStatus struct {
	Name    string         `json:"name"`
	Phase   mlx.ModelPhase `json:"phase"`
	Done    int64          `json:"done"`  // bytes loaded
	Total   int64          `json:"total"` // bytes to load; 0 when not known
	Error   string         `json:"error,omitzero"`
	Active  int            `json:"active"` // requests
	Waiting int            `json:"waiting"`
	Wait    string         `json:"wait,omitzero"` // what they wait for
	Held    int64          `json:"held"`          // bytes of the memory budget
	Pinned  bool           `json:"pinned,omitzero"`
	Loads   int64          `json:"loads"`
	Engine  string         `json:"engine,omitzero"`
	Reason  string         `json:"reason,omitzero"`
	Device  string         `json:"device,omitzero"`
	Thinks  bool           `json:"thinks"` // the chat template has a switch for reasoning
	Context int            `json:"context_length,omitzero"`
	Memory  *memoryStatus  `json:"memory,omitzero"`
	Workers []workerStatus `json:"workers,omitzero"` // of the python engine
}

// memoryStatus is the memory of a loaded model, in bytes.
type memoryStatus struct {
	Weights     int64 `json:"weights"`
	KV          int64 `json:"kv"`
	PromptCache int64 `json:"prompt_cache"`
	Active      int64 `json:"active"` // MLX's account for the process
	Cache       int64 `json:"cache"`
	Peak        int64 `json:"peak"`
	LiveArrays  int64 `json:"live_arrays"`
}

type workerStatus struct {
	PID    int     `json:"pid"`
	State  string  `json:"state"`
	Phase  string  `json:"phase"`
	Active int     `json:"active"`
	Quiet  float64 `json:"quiet_s"`
}

// patience is how long to wait for the figures of a busy model.
const patience = 500 * time.Millisecond

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	models := []modelStatus{}
	for _, state := range s.config.Models.State().Models {
		m := modelStatus{Name: state.Name, Phase: state.Phase, Done: state.Done, Total: state.Total, Active: state.Active, Loads: state.Loads}
		m.Waiting, m.Wait, m.Held, m.Pinned = state.Waiting, state.Wait.String(), state.Held, state.Pinned
		if state.Err != nil {
			m.Error = state.Err.Error()
		}
		if facts, err := s.facts.Of(state.Path); err == nil { // a model with broken files says so when it is loaded
			m.Thinks, m.Context = facts.SwitchesThinking(), facts.ContextLength
		}
		if state.Model != nil {
			m.describe(r.Context(), state.Model)
		}
		models = append(models, m)
	}
	return s.writeJSON(r.Context(), w, http.StatusOK, map[string]any{"version": s.config.Version, "draining": s.draining.Load(), "models": models})
}

func (m *modelStatus) describe(ctx context.Context, model mlx.TextModel) {
	info := model.Info()
	m.Engine, m.Reason, m.Device = string(info.Engine), info.Reason, info.Device
	if metrics, err := metricsOf(ctx, model); err == nil {
		m.Memory = &memoryStatus{
			Weights: metrics.WeightBytes, KV: metrics.KVBytes + metrics.CachedKVBytes, PromptCache: metrics.PromptCacheBytes,
			Active: metrics.ActiveBytes, Cache: metrics.CacheBytes, Peak: metrics.PeakBytes, LiveArrays: metrics.LiveArrays,
		}
	}
	if python, ok := model.(mlx.Supervised); ok {
		m.Workers = workersOf(python.Stat())
	}
}

func workersOf(stat mlx.WorkerPool) []workerStatus {
	var out []workerStatus
	for _, w := range stat.Workers {
		out = append(out, workerStatus{PID: w.PID, State: w.State, Phase: w.Phase, Active: w.Active, Quiet: w.Quiet.Seconds()})
	}
	return out
}

// metricsOf asks a model that may be busy, or closed meanwhile.
func metricsOf(ctx context.Context, model mlx.TextModel) (mlx.Metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return model.Metrics(ctx)
}
