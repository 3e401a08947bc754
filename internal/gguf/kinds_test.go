package gguf

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A value of the wrong kind is never passed over: what would be assumed in its place computes another model.
func TestValuesOfTheWrongKindAreNamed(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	wrong := map[string]any{
		"text": "x", "flag": true, "NaN": float32(math.NaN()), "infinity": math.Inf(1), "texts": []string{"a"}, "no numbers": []int32{}, "fraction": float32(0.5),
	}
	right := map[kind][]string{numberKind: {"fraction"}, textKind: {"text"}, flagKind: {"flag"}, textsKind: {"texts"}}
	for _, arch := range []string{"gemma3", "llama", "qwen2"} {
		for key, kind := range archKinds {
			for name, value := range wrong {
				if slices.Contains(right[kind], name) {
					continue
				}
				metadata := tiny(arch)
				metadata[arch+"."+key] = value
				_, err := Open(write(t, "m.gguf", build(t, metadata, embedding, entry{"blk.0.attn_k.weight", F32, []uint64{1, 6}, floats(6)})), Plain)
				require.ErrorIs(t, err, ErrMalformed, "%s is %v", key, value)
				require.ErrorContains(t, err, arch+"."+key)
			}
		}
	}
	for key, kind := range tokenizerKinds {
		for name, value := range wrong {
			if slices.Contains(right[kind], name) {
				continue
			}
			metadata := tiny("llama")
			metadata[key] = value
			c := open(t, build(t, metadata, embedding), Plain)
			_, err := c.Parts()
			require.ErrorIs(t, err, ErrMalformed, "%s is %v", key, value)
			require.ErrorContains(t, err, key)
			if kind == idKind { // the end tokens of the config are of these
				_, _, err := c.Config()
				require.ErrorContains(t, err, key)
			}
		}
	}
	for _, value := range []any{"x", []int32{1, 1}, []string{"1", "1", "1", "1", "1"}, 7} {
		metadata := tiny("llama")
		metadata["tokenizer.ggml.token_type"] = value
		_, err := open(t, build(t, metadata, embedding), Plain).Parts()
		require.ErrorContains(t, err, "tokenizer.ggml.token_type")
	}
	metadata := tiny("qwen3")
	metadata["qwen3.attention.value_length"] = 7
	_, _, err := open(t, build(t, metadata, embedding), Plain).Config()
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestAnEntryThatIsThereTwiceIsNamed(t *testing.T) {
	data := build(t, map[string]any{"llama.x": 1, "llama.y": 2})
	_, err := parse(bytes.Replace(data, []byte("llama.y"), []byte("llama.x"), 1))
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, `"llama.x"`)
}

func TestWindowsMayBeToldLayerByLayer(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	for _, c := range []struct {
		layers []bool
		want   int
	}{
		{[]bool{true, true, false, true, true, false, true}, 3}, {[]bool{false, false}, 1}, {[]bool{true, false, false}, 0}, {[]bool{true, true}, 0},
	} {
		metadata := tiny("gemma3")
		metadata["gemma3.attention.sliding_window_pattern"], metadata["gemma3.block_count"] = c.layers, len(c.layers)
		metadata["gemma3.attention.sliding_window"] = 512
		said, _, err := open(t, build(t, metadata, embedding), Plain).Config()
		if c.want == 0 {
			require.ErrorIs(t, err, ErrUnsupported, "%v", c.layers)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, said["sliding_window_pattern"], "%v", c.layers)
	}
}

// What one list has too few or too many of, another layer would get.
func TestListsHaveAValueForEachLayer(t *testing.T) {
	for key, value := range map[string]any{
		"gemma3.attention.sliding_window_pattern": []bool{true, false}, "gemma3.attention.head_count": []int32{4, 4}, "gemma3.feed_forward_length": []int32{32, 32},
	} {
		metadata := tiny("gemma3")
		metadata["gemma3.block_count"], metadata[key] = 3, value
		_, err := Open(write(t, "m.gguf", build(t, metadata)), Plain)
		require.ErrorIs(t, err, ErrMalformed)
		require.ErrorContains(t, err, key+" has 2 values for 3 layers")
	}
}

// A tokenizer without its merges would give every letter a token of its own.
func TestAVocabularyWithoutMergesIsAnError(t *testing.T) {
	metadata := tiny("llama")
	delete(metadata, "tokenizer.ggml.merges")
	_, err := open(t, build(t, metadata), Plain).Parts()
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "tokenizer.ggml.merges")
	require.ErrorContains(t, err, "tokenizer.json beside")
	metadata["tokenizer.ggml.merges"] = []string{}
	_, err = open(t, build(t, metadata), Plain).Parts()
	require.NoError(t, err, "a vocabulary of letters has none")
}

// Gemma 3's tokenizer.json has 33 MB.
func TestAWholeTokenizerMayBeLong(t *testing.T) {
	metadata := tiny("llama")
	metadata[wholeTokenizer] = strings.Repeat(" ", 34<<20)
	json, err := open(t, build(t, metadata), Plain).Tokenizer()
	require.NoError(t, err)
	require.Len(t, json, 34<<20)
}
