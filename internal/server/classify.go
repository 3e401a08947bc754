package server

import (
	"net/http"
	"slices"

	mlx "forge.lthn.ai/core/go-mlx"
)

// classifyRequest is the body of /v1/classify, which is this server's own.
type classifyRequest struct {
	Model        string    `json:"model"`
	Texts        oneOrMany `json:"texts"`
	Labels       []string  `json:"labels"`
	Prompt       string    `json:"prompt"`        // with {labels} and {text}
	Temperature  float64   `json:"temperature"`   // of the probabilities, as calibration finds it
	AbstainBelow float64   `json:"abstain_below"` // mark results whose best label is less probable
	Scores       bool      `json:"scores"`        // with every label's score
	Stream       bool      `json:"stream"`        // results as events, a window of texts at a time
	User         string    `json:"user"`
}

type classified struct {
	Index int `json:"index"`
	mlx.Classification
}

// classifyStep is how many texts of a stream are classified at a time.
const classifyStep = 64

func (s *Server) classify(w http.ResponseWriter, r *http.Request) error {
	var q classifyRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if len(q.Texts) == 0 {
		return badField("texts", "there are none")
	}
	var options []mlx.ClassifyOption
	if q.Prompt != "" {
		options = append(options, mlx.WithLabelPrompt(q.Prompt))
	}
	if q.Temperature != 0 {
		options = append(options, mlx.WithCalibration(mlx.Calibration{Temperature: q.Temperature}))
	}
	if q.AbstainBelow != 0 {
		options = append(options, mlx.WithAbstain(q.AbstainBelow))
	}
	lease, err := s.acquire(w, r, q.Model)
	if err != nil {
		return err
	}
	defer lease.Release()
	step := len(q.Texts)
	var out *sse
	if q.Stream {
		step = classifyStep
		out = s.newSSE(w)
		defer out.close()
	}
	done := 0
	for texts := range slices.Chunk(q.Texts, step) {
		results, err := lease.Model.Classify(r.Context(), texts, q.Labels, options...)
		if err != nil {
			if out != nil {
				return s.failStream(r, out, openAI, err)
			}
			return err
		}
		list := make([]classified, len(results))
		for i, c := range results {
			if !q.Scores {
				c.Scores = nil
			}
			list[i] = classified{done + i, c}
		}
		done += len(results)
		s.metrics.classified(q.Model, len(results))
		answer := map[string]any{"object": "list", "model": q.Model, "data": list, "done": done, "total": len(q.Texts)}
		if out == nil {
			writeJSON(w, http.StatusOK, answer)
			return nil
		}
		if err := out.send("", answer); err != nil {
			return s.failStream(r, out, openAI, err)
		}
	}
	out.done()
	return nil
}
