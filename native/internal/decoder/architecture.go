package decoder

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// Architecture is a model's forward pass: a decoder, or in tests something around one. To add a family, write one file that
// reads its config into a decoderSpec, and name it in architectures.
type Architecture interface {
	// shape says what the engine must know of the model.
	shape() Shape
	// Hidden runs the layers on token ids [B, T] and returns the normed states [B, T, hidden].
	Hidden(s *mlxc.Scope, ids *mlxc.Array, pass *kv.Pass) *mlxc.Array
	// Logits maps states [..., hidden] to [..., vocab].
	Logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array
	// Close frees what the weights' scope does not own.
	Close() error
}

// Shape is the sizes of a model.
type Shape struct {
	kv.Layout
	HiddenSize, VocabSize, heads, intermediate int

	Bidirectional bool // tokens see later ones too: for embeddings, not for text
}

type constructor func(c *checkpoint.Config, w *checkpoint.Weights, lease *mlxc.Lease) (Architecture, error)

var architectures = map[string]constructor{
	"gemma3_text": newGemma3,
	"llama":       newLlama,
	"qwen2":       newQwen2,
	"qwen3":       newQwen3,
}

// Supported reports whether there is code for a model, and if not, why.
func Supported(c *checkpoint.Config) error {
	if _, ok := architectures[c.ModelType]; ok {
		return nil
	}
	known := strings.Join(slices.Sorted(maps.Keys(architectures)), ", ")
	return fmt.Errorf("model_type %q: %w (it has %s); use the python engine", c.ModelType, engine.ErrUnsupported, known)
}
