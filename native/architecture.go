package native

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

// architecture is a model's forward pass: a decoder, or in tests something around one. To add a family, write one file that
// reads its config into a decoderSpec, and name it in architectures.
type architecture interface {
	// shape says what the engine must know of the model.
	shape() modelShape
	// hidden runs the layers on token ids [B, T] and returns the normed states [B, T, hidden].
	hidden(s *mlxc.Scope, ids *mlxc.Array, pass *Pass) *mlxc.Array
	// logits maps states [..., hidden] to [..., vocab].
	logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array
	// close frees what the weights' scope does not own.
	close() error
}

// modelShape is the sizes of a model.
type modelShape struct {
	Layout
	hiddenSize, vocabSize, heads, intermediate int

	bidirectional bool // tokens see later ones too: for embeddings, not for text
}

type constructor func(c *config, w *weights, lease *mlxc.Lease) (architecture, error)

var architectures = map[string]constructor{
	"gemma3_text": newGemma3,
	"llama":       newLlama,
	"qwen2":       newQwen2,
	"qwen3":       newQwen3,
}

// Supported reports whether the engine has code for the model in a folder or a GGUF file, and if not, why. It reads
// its config only.
func Supported(path string) error {
	from, err := modelfiles.Find(path)
	if err != nil {
		return err
	}
	c, err := readConfig(from)
	if err != nil {
		return err
	}
	return supported(c)
}

func supported(c *config) error {
	if _, ok := architectures[c.modelType]; ok {
		return nil
	}
	known := strings.Join(slices.Sorted(maps.Keys(architectures)), ", ")
	return fmt.Errorf("model_type %q: %w (it has %s); use the python engine", c.modelType, engine.ErrUnsupported, known)
}

// ReadsTemplate reports whether the engine can read the model's chat template, and if not, why. A model without one has nothing to
// read.
func ReadsTemplate(path string) error {
	from, err := modelfiles.Find(path)
	if err != nil {
		return err
	}
	template, err := tokenizer.LoadTemplate(from)
	if errors.Is(err, tokenizer.ErrNoTemplate) {
		return nil
	}
	if err == nil {
		template.Close()
	}
	return err
}
