package ollama

import "time"

// Model is one in the lists of models.
type Model struct {
	Name       string    `json:"name"`
	Model      string    `json:"model"`
	ModifiedAt time.Time `json:"modified_at"`
	Size       int64     `json:"size"`
	Digest     string    `json:"digest"`
	Details    Details   `json:"details"`

	ExpiresAt     *time.Time `json:"expires_at,omitzero"` // of those that are loaded
	SizeVRAM      *int64     `json:"size_vram,omitzero"`
	ContextLength int        `json:"context_length,omitzero"`
}

// Details say what kind of model it is.
type Details struct {
	ParentModel       string   `json:"parent_model"`
	Format            string   `json:"format"`
	Family            string   `json:"family"`
	Families          []string `json:"families"`
	ParameterSize     string   `json:"parameter_size"`
	QuantizationLevel string   `json:"quantization_level"`
}

// List is the answer to /api/tags and /api/ps.
type List struct {
	Models []Model `json:"models"`
}

// ShowRequest is the body of /api/show.
type ShowRequest struct {
	Model string `json:"model"`
	Name  string `json:"name"`
}

// ModelName is the model that the request names.
func (q *ShowRequest) ModelName() string {
	if q.Model == "" {
		return modelName(q.Name)
	}
	return modelName(q.Model)
}

// Show is the answer to /api/show.
type Show struct {
	Modelfile    string         `json:"modelfile"`
	Parameters   string         `json:"parameters"`
	Template     string         `json:"template"`
	Details      Details        `json:"details"`
	ModelInfo    map[string]any `json:"model_info"`
	Capabilities []string       `json:"capabilities"`
	ModifiedAt   time.Time      `json:"modified_at"`
}
