package gguf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A factor of position embeddings counts also where nothing says what it is, and under its old name.
func TestAFactorOfPositionsIsNeverPassedOver(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	linear := map[string]any{"rope_type": "linear", "factor": 4.0}
	for name, c := range map[string]struct {
		more map[string]any
		want any
	}{
		"nothing":              {nil, nil},
		"a type":               {map[string]any{"rope.scaling.type": "linear", "rope.scaling.factor": float32(4)}, linear},
		"no type":              {map[string]any{"rope.scaling.factor": float32(4)}, linear},
		"no type, whole":       {map[string]any{"rope.scaling.factor": 4}, linear},
		"the old name":         {map[string]any{"rope.scale_linear": float32(4)}, linear},
		"the old name, a type": {map[string]any{"rope.scaling.type": "linear", "rope.scale_linear": float32(4)}, linear},
		"both names":           {map[string]any{"rope.scaling.factor": float32(4), "rope.scale_linear": float32(2)}, linear},
		"none":                 {map[string]any{"rope.scaling.type": "none", "rope.scaling.factor": float32(4)}, nil},
		"a factor of nothing":  {map[string]any{"rope.scaling.type": "linear", "rope.scaling.factor": float32(0)}, nil},
		"no factor":            {map[string]any{"rope.scaling.type": "linear"}, nil},
	} {
		for _, arch := range []string{"llama", "qwen3", "gemma3"} {
			metadata := tiny(arch)
			for key, value := range c.more {
				metadata[arch+"."+key] = value
			}
			said, _, err := open(t, build(t, metadata, embedding), Plain).Config()
			require.NoError(t, err, name)
			require.Equal(t, c.want, said["rope_scaling"], "%s, %s", arch, name)
		}
	}
	for _, kind := range []string{"", "yarn", "longrope", "Linear"} {
		metadata := tiny("llama")
		metadata["llama.rope.scaling.type"] = kind
		_, _, err := open(t, build(t, metadata, embedding), Plain).Config()
		require.ErrorIs(t, err, ErrUnsupported, kind)
	}
}
