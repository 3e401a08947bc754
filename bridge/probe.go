package bridge

import (
	"context"
	"encoding/json"
	"fmt"
)

// Probe is what mlx-lm would make of a model folder, by its config.json and the headers of its weight files.
type Probe struct {
	ModelType string `json:"model_type"`
	Supported bool   `json:"supported"` // mlx-lm can build it
	Reason    string `json:"reason"`    // why not
	File      string `json:"file"`      // of mlx-lm, or the folder's own

	Missing   []string   `json:"missing"` // tensors that the model wants and the files do not have
	Extra     []string   `json:"extra"`   // tensors that the files have and the model does not want
	Misshaped []Mismatch `json:"misshaped"`

	Layers          int   `json:"layers"`
	WeightBytes     int64 `json:"weight_bytes"`
	KVBytesPerToken int64 `json:"kv_bytes_per_token"` // of plain attention; 0 if config.json does not say

	Checklist []string `json:"checklist"` // what a port to another engine must have
	Nearest   *Nearest `json:"nearest"`
}

// Mismatch is a tensor of the wrong shape.
type Mismatch struct {
	Name   string `json:"name"`
	Shape  []int  `json:"shape"`
	Wanted []int  `json:"wanted"`
}

// Nearest is the native architecture whose layers are most like those of the model.
type Nearest struct {
	Architecture string   `json:"architecture"`
	File         string   `json:"file"`
	Likeness     float64  `json:"likeness"` // modules in common among all of both, 0 to 1
	More         []string `json:"more"`     // modules that the model has besides
	Less         []string `json:"less"`     // modules that it lacks
}

// Problems are the tensors that do not fit.
func (p *Probe) Problems() []string {
	var out []string
	for _, name := range p.Missing {
		out = append(out, "missing: "+name)
	}
	for _, name := range p.Extra {
		out = append(out, "extra: "+name)
	}
	for _, m := range p.Misshaped {
		out = append(out, fmt.Sprintf("%s has shape %v, want %v", m.Name, m.Shape, m.Wanted))
	}
	return out
}

// Probe looks at a model folder without loading its weights. Code in the folder runs only with trust.
func (t *Tool) Probe(ctx context.Context, dir string, trust bool) (*Probe, error) {
	args := []string{"-m", "go_mlx_worker.probe", dir}
	if trust {
		args = append(args, "--trust-remote-code")
	}
	out, err := t.Run(ctx, args...)
	if err != nil {
		return nil, err
	}
	probe := &Probe{}
	if err := json.Unmarshal(out, probe); err != nil {
		return nil, fmt.Errorf("probe %s: %w", dir, err)
	}
	return probe, nil
}
