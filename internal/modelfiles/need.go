package modelfiles

import (
	"encoding/json"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// needTokens is for how many tokens of KV a model is expected to need memory: one request of moderate length. What longer or more
// requests hold is measured while they run.
const needTokens = 4096

// Need is how many bytes a loaded model is expected to hold: its weights, those of a draft model and an adapter (folders; "" for none),
// and the KV of one request. A file that cannot be read counts as 0 bytes: loading reports why.
func Need(model string, others ...string) int64 {
	total := Weights(model, others...) + kvBytes(model)
	for _, dir := range others {
		if dir != "" {
			total += kvBytes(dir)
		}
	}
	return total
}

// Weights is the size of the weight files of a model, a draft model and an adapter (folders; "" for none).
func Weights(model string, others ...string) int64 {
	total := weights(model)
	for _, dir := range others {
		if dir != "" {
			total += weights(dir)
		}
	}
	return total
}

// weights is the size of a model's weight files, or what an adapter holds in memory. In a folder with GGUF files only those of one model
// count, and files that are not loaded, such as a second form of the weights or earlier states of an adapter, do not.
func weights(path string) int64 {
	if held := adapterBytes(path); held > 0 {
		return held
	}
	if s, err := Find(path); err == nil && s.GGUF != "" {
		if info, err := s.Describe(); err == nil && info.WeightBytes > 0 {
			return info.WeightBytes
		}
	}
	return Bytes(path, modelPattern, ggufPattern)
}

// adapterBytes is what a folder's adapter holds in memory, in float32 as the CPU kernels keep it; 0 of a folder with a model, or without an adapter.
func adapterBytes(dir string) int64 {
	if files, err := Files(dir, modelPattern); err != nil || len(files) > 0 {
		return 0
	}
	tensors, err := safetensors.ReadFile(filepath.Join(dir, "adapters.safetensors"))
	if err != nil {
		return 0
	}
	var total int64
	for _, t := range tensors {
		total += 4 * t.Elements()
	}
	return total
}

// kvConfig is what the size of KV depends on.
type kvConfig struct {
	Layers  int             `json:"num_hidden_layers"`
	Hidden  int             `json:"hidden_size"`
	Heads   int             `json:"num_attention_heads"`
	KVHeads int             `json:"num_key_value_heads"`
	HeadDim int             `json:"head_dim"`
	Context int             `json:"max_position_embeddings"`
	Text    json.RawMessage `json:"text_config"`
}

// kvBytes is the KV of needTokens tokens, at two bytes a number, as if all layers attended to everything.
func kvBytes(path string) int64 {
	s, err := Find(path)
	if err != nil {
		return 0
	}
	data, err := s.Read("config.json")
	if err != nil {
		return 0
	}
	if data, err = CleanConfig(data); err != nil {
		return 0
	}
	var c kvConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return 0
	}
	if len(c.Text) > 0 {
		if err := json.Unmarshal(c.Text, &c); err != nil {
			return 0
		}
	}
	if c.KVHeads <= 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim <= 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	tokens := needTokens
	if c.Context > 0 {
		tokens = min(tokens, c.Context)
	}
	const most = 1 << 20 // no model has more of anything; a config can claim any number
	for _, n := range []int{c.Layers, c.KVHeads, c.HeadDim} {
		if n < 0 || n > most {
			return 0
		}
	}
	bytes := float64(tokens) * 2 * 2 * float64(c.Layers) * float64(c.KVHeads) * float64(c.HeadDim)
	if bytes > 1<<50 {
		return 0
	}
	return int64(bytes)
}
