package gguf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What models differ in is never assumed.
func TestWhatIsMissingIsNamed(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	for _, key := range []string{"embedding_length", "block_count", "feed_forward_length", "attention.head_count", "context_length", "attention.layer_norm_rms_epsilon"} {
		for _, arch := range []string{"llama", "gemma3", "qwen2"} {
			metadata := tiny(arch)
			delete(metadata, arch+"."+key)
			_, _, err := open(t, build(t, metadata, embedding), Plain).Config()
			require.ErrorIs(t, err, ErrMalformed, key)
			require.ErrorContains(t, err, arch+"."+key)
		}
	}
	_, _, err := open(t, build(t, tiny("llama")), Plain).Config()
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "token_embd.weight")
}

// Files that belong to a model have its architecture, and some of its metadata.
func TestAFileThatIsNoModelSaysWhatItIs(t *testing.T) {
	for _, kind := range []string{"adapter", "mmproj", "imatrix"} {
		for _, arch := range []string{"llama", "clip", ""} {
			_, err := Open(write(t, "m.gguf", build(t, map[string]any{"general.type": kind, "general.architecture": arch})), Plain)
			require.ErrorIs(t, err, ErrUnsupported)
			require.ErrorContains(t, err, kind)
			require.ErrorContains(t, err, "the model's own file")
		}
	}
	metadata := tiny("llama")
	metadata["general.type"] = "model"
	open(t, build(t, metadata), Plain)
}

// A Gemma 3 without windows has none in llama.cpp either, which then turns all layers by the same base.
func TestAGemmaWithoutWindowsSeesEverything(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	for name, c := range map[string]struct {
		window any
		want   int
	}{"none": {nil, 1}, "of nothing": {0, 1}, "of 512": {512, 6}} {
		metadata := tiny("gemma3")
		if c.window != nil {
			metadata["gemma3.attention.sliding_window"] = c.window
		}
		said, assumed, err := open(t, build(t, metadata, embedding), Plain).Config()
		require.NoError(t, err)
		require.Equal(t, c.want, assumed["sliding_window_pattern"], name)
		require.Equal(t, c.want != 1, said["sliding_window"] != nil)
	}
}

// Where the width of a head is not told, it is the share of the model's width, for the attention's scale too.
func TestAGemmaWithoutTheWidthOfItsHeads(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	for length, want := range map[int]int{0: 16, 32: 32} {
		metadata := tiny("gemma3")
		if length > 0 {
			metadata["gemma3.attention.key_length"] = length
		}
		said, assumed, err := open(t, build(t, metadata, embedding), Plain).Config()
		require.NoError(t, err)
		require.Equal(t, want, said["head_dim"])
		require.Equal(t, want, assumed["query_pre_attn_scalar"])
	}
}
