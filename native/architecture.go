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
	hidden(s *mlxc.Scope, ids *mlxc.Array, st state) *mlxc.Array
	// logits maps states [..., hidden] to [..., vocab].
	logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array
	// close frees what the weights' scope does not own.
	close() error
}

type modelShape struct {
	hiddenSize                            int
	vocabSize                             int
	heads, kvHeads, headDim, intermediate int
	windows                               []int         // sliding window of each layer, 0 for full attention
	bidirectional                         bool          // tokens see later ones too: for embeddings, not for text
	fused                                 *fusedDecoder // nil without the CUDA kernels
	kernels                               bool          // with the CPU kernels: states keep their KV in rings
}

// state is a layer's view of the positions before the present pass.
type state interface {
	// rope rotates queries or keys [B, heads, T, head_dim] to their positions.
	rope(s *mlxc.Scope, x *mlxc.Array, p mlxc.RoPE) *mlxc.Array
	// positions are those of every token of so many rows, int32 [rows, T].
	positions(s *mlxc.Scope, rows, tokens int) *mlxc.Array
	// attend adds the pass's keys and values [B, kv_heads, T, head_dim] of a layer to it and returns what its
	// queries [B, heads, T, head_dim] attend to, [B, T, heads*head_dim]. scale multiplies the scores.
	attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array
	// observe sees what ops of a layer put out, named as their modules are in a checkpoint ("mlp.down_proj"), or with one of
	// the names below.
	observe(s *mlxc.Scope, layer int, op string, h *mlxc.Array)
}

// What a state observes besides modules. Rotated queries and keys are in the shape [B, heads, T, head_dim].
const (
	opInput  = "input"  // of the first layer, [B, T, hidden]
	opOutput = "output" // of a layer, [B, T, hidden]
	opRopeQ  = "self_attn.rope"
	opRopeK  = "self_attn.rope.2"

	opInputNorm         = "input_layernorm"
	opAttention         = "self_attn.o_proj"
	opPostAttentionNorm = "post_attention_layernorm"
	opPreMLPNorm        = "pre_feedforward_layernorm"
	opMLP               = "mlp.down_proj"
	opPostMLPNorm       = "post_feedforward_layernorm"
)

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
	return c.supported()
}

func (c *config) supported() error {
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
