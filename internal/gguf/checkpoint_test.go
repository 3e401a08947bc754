package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// tiny is the metadata of a model of an architecture.
func tiny(arch string) map[string]any {
	return map[string]any{
		"general.architecture": arch, arch + ".embedding_length": 64, arch + ".block_count": 1, arch + ".feed_forward_length": 32,
		arch + ".attention.head_count": 4, arch + ".attention.head_count_kv": 2, arch + ".context_length": 128,
		arch + ".attention.layer_norm_rms_epsilon": float32(1e-5), arch + ".rope.freq_base": float32(10000),
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": []string{"a", "b", "ab", "<e>", "<|im_end|>"},
		"tokenizer.ggml.token_type": []int32{1, 1, 1, 3, 3}, "tokenizer.ggml.merges": []string{"a b"}, "tokenizer.ggml.eos_token_id": 3,
	}
}

// floats is the bytes of float32 values 0, 1, 2, ...
func floats(n int) []byte {
	var out []byte
	for i := range n {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(i)))
	}
	return out
}

func write(t testing.TB, name string, data []byte) string {
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

func open(t testing.TB, data []byte, packing Packing) *Checkpoint {
	t.Helper()
	c, err := Open(write(t, "model.gguf", data), packing)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestAVirtualFileIsSafetensors(t *testing.T) {
	for _, packing := range []Packing{Plain, Affine, ForKernels} {
		c := open(t, build(t, tiny("qwen3"),
			entry{"token_embd.weight", Q4_0, []uint64{64, 3}, randomBlocks(Q4_0, 6)}, entry{"output_norm.weight", F32, []uint64{64}, floats(64)},
			entry{"blk.0.ffn_up.weight", Q5_1, []uint64{64, 5}, randomBlocks(Q5_1, 10)}), packing)
		var whole bytes.Buffer
		n, err := c.WriteTo(&whole)
		require.NoError(t, err)
		require.Equal(t, c.Size(), n)
		tensors, _, err := safetensors.Read(bytes.NewReader(whole.Bytes()), n)
		require.NoError(t, err)
		require.Equal(t, c.Virtual, tensors)
		require.Equal(t, packing == Affine, tensors["model.embed_tokens.biases"].Shape != nil)
		if packing != Plain {
			require.Equal(t, []int{3, 8}, tensors["model.embed_tokens.weight"].Shape)
			require.Equal(t, []int{5, 10}, tensors["model.layers.0.mlp.up_proj.weight"].Shape)
			require.Equal(t, "F16", tensors["model.norm.weight"].DType)
		} else {
			require.Equal(t, []int{3, 64}, tensors["model.embed_tokens.weight"].Shape)
			require.Equal(t, "BF16", tensors["model.embed_tokens.weight"].DType)
		}
		for _, from := range []int64{0, 1, int64(len(c.header)) + 3, n - 5} { // any piece is that of the whole
			piece := make([]byte, 40)
			got, err := c.ReadAt(piece, from)
			if err == io.EOF {
				piece = piece[:got]
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, whole.Bytes()[from:][:len(piece)], piece)
		}
	}
}

// The parts of a packed matrix are made together, in whatever order they are asked for, and parts that will not be asked for are not kept.
func TestThePartsOfAPackedMatrixAreFreed(t *testing.T) {
	data := build(t, tiny("qwen3"), entry{"token_embd.weight", Q4_1, []uint64{64, 3}, randomBlocks(Q4_1, 6)})
	read := func(c *Checkpoint, part string) []byte {
		name := "model.embed_tokens." + part
		out := make([]byte, c.Virtual[name].Bytes())
		require.NoError(t, c.ReadTensor(name, out))
		return out
	}
	want := map[string][]byte{}
	for part := range map[string]bool{"weight": true, "scales": true, "biases": true} {
		want[part] = read(open(t, data, Affine), part)
	}
	for _, order := range [][]string{
		{"weight", "scales", "biases"}, {"biases", "scales", "weight"}, {"scales", "weight", "biases"}, {"biases", "weight", "scales", "scales"},
	} {
		c := open(t, data, Affine)
		for _, part := range order {
			require.Equal(t, want[part], read(c, part), "%v", order)
		}
		require.Empty(t, c.made, "%v", order)
	}
}

// Llama's rows of queries and keys lie in another order in GGUF, Gemma's norms have one added.
func TestWhatLlamaCppChangedIsChangedBack(t *testing.T) {
	metadata := tiny("llama")
	c := open(t, build(t, metadata, entry{"token_embd.weight", F32, []uint64{1, 2}, floats(2)}, entry{"blk.0.attn_q.weight", F32, []uint64{1, 16}, floats(16)},
		entry{"blk.0.attn_q.bias", F32, []uint64{16}, floats(16)}, entry{"blk.0.attn_v.weight", F32, []uint64{1, 4}, floats(4)}), Plain)
	values := func(c *Checkpoint, name string) (out []float32) {
		data := make([]byte, c.Virtual[name].Bytes())
		require.NoError(t, c.ReadTensor(name, data))
		for i := range len(data) / 4 {
			out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		}
		return out
	}
	want := []float32{0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15}
	require.Equal(t, want, values(c, "model.layers.0.self_attn.q_proj.weight"))
	require.Equal(t, want, values(c, "model.layers.0.self_attn.q_proj.bias"))
	require.Equal(t, []float32{0, 1, 2, 3}, values(c, "model.layers.0.self_attn.v_proj.weight"))
	g := open(t, build(t, tiny("gemma3"), entry{"token_embd.weight", F32, []uint64{1, 2}, floats(2)}, entry{"blk.0.attn_q_norm.weight", F32, []uint64{3}, floats(3)}), Plain)
	require.Equal(t, []float32{-1, 0, 1}, values(g, "model.layers.0.self_attn.q_norm.weight"))
}

func TestTheConfigIsThatOfTheMetadata(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	said, _, err := open(t, build(t, tiny("qwen2"), embedding, entry{"output.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}), Plain).Config()
	require.NoError(t, err)
	data, err := json.Marshal(said)
	require.NoError(t, err)
	require.JSONEq(t, `{"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
		"head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-05, "rope_theta": 10000, "vocab_size": 5, "tie_word_embeddings": false, "eos_token_id": [3, 4]}`, string(data))

	// The factors of Llama 3.1 become its setting again.
	metadata := tiny("llama")
	metadata["llama.rope.freq_base"] = float32(500000)
	var factors []byte
	for i := range 8 {
		wave, factor := 2*math.Pi*math.Pow(500000, float64(i)/8), 1.0
		if wave > 8192 {
			factor = 8
		} else if wave > 2048 {
			smooth := (8192/wave - 1) / 3
			factor = 1 / ((1-smooth)/8 + smooth)
		}
		factors = binary.LittleEndian.AppendUint32(factors, math.Float32bits(float32(factor)))
	}
	said, _, err = open(t, build(t, metadata, embedding, entry{ropeFactors, F32, []uint64{8}, factors}), Plain).Config()
	require.NoError(t, err)
	require.Equal(t, map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}, said["rope_scaling"])
	_, _, err = open(t, build(t, metadata, embedding, entry{ropeFactors, F32, []uint64{8}, floats(8)}), Plain).Config()
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestASplitModelIsReadFromItsFirstPart(t *testing.T) {
	dir := t.TempDir()
	first, second := tiny("qwen3"), map[string]any{"split.count": 2, "split.no": 1}
	first["split.count"], first["split.no"] = 2, 0
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("m-%05d-of-00002.gguf", i)) }
	require.NoError(t, os.WriteFile(name(1), build(t, first, entry{"token_embd.weight", F32, []uint64{1, 2}, floats(2)}), 0o644))
	_, err := Open(name(1), Plain)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(name(2), build(t, second, entry{"output_norm.weight", F32, []uint64{4}, floats(4)}), 0o644))
	c, err := Open(name(1), Plain)
	require.NoError(t, err)
	defer c.Close()
	data := make([]byte, 16)
	require.NoError(t, c.ReadTensor("model.norm.weight", data))
	require.Equal(t, floats(4), data)
	_, err = Open(name(2), Plain)
	require.ErrorContains(t, err, "architecture")
	require.True(t, LaterPart(name(2)))
	require.False(t, LaterPart(name(1)))
}

func TestWhatIsNotSupportedIsNamed(t *testing.T) {
	embedding := entry{"token_embd.weight", F32, []uint64{64, 5}, make([]byte, 64*5*4)}
	_, err := Open(write(t, "m.gguf", build(t, tiny("falcon"), embedding)), Plain)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, `"falcon"`)
	_, err = Open(write(t, "m.gguf", build(t, tiny("llama"), entry{"blk.0.ffn_up.weight", 16, []uint64{256}, make([]byte, 66)})), Plain)
	var unknown *TypeError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, "blk.0.ffn_up.weight", unknown.Tensor)
	require.ErrorContains(t, err, "IQ2_XXS")
	require.ErrorContains(t, err, "llama-quantize")
	_, err = Open(write(t, "m.gguf", build(t, tiny("llama"), entry{"x", 99, []uint64{256}, make([]byte, 66)})), Plain)
	require.ErrorAs(t, err, &unknown)

	_, err = Open(write(t, "m.gguf", build(t, tiny("llama"), entry{"blk.0.attn_q.weight", F32, []uint64{1, 6}, floats(6)})), Plain)
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "6 rows for 4 heads")

	for change, want := range map[string]map[string]any{
		"experts":   {"llama.expert_count": 8},
		"yarn":      {"llama.rope.scaling.type": "yarn"},
		"head_coun": {"llama.block_count": 2, "llama.attention.head_count_kv": []int32{1, 2}},
		"8 of 16":   {"llama.rope.dimension_count": 8},
	} {
		metadata := tiny("llama")
		for k, v := range want {
			metadata[k] = v
		}
		c, err := Open(write(t, "m.gguf", build(t, metadata, embedding)), Plain)
		if err == nil {
			_, _, err = c.Config()
			require.NoError(t, c.Close())
		}
		require.ErrorIs(t, err, ErrUnsupported)
		require.ErrorContains(t, err, change)
	}
	for _, c := range []map[string]any{{"tokenizer.ggml.model": "t5"}, {"tokenizer.ggml.pre": "viking"}} {
		metadata := tiny("llama")
		for k, v := range c {
			metadata[k] = v
		}
		_, err := open(t, build(t, metadata, embedding), Plain).Tokenizer()
		require.ErrorIs(t, err, ErrUnsupported)
		require.ErrorContains(t, err, "tokenizer.json beside")
	}
}

// requireSideBySide compares tensors that are converted all at once with those that are read one by one from the virtual file.
func requireSideBySide(t *testing.T, c *Checkpoint) {
	t.Helper()
	want := make([]byte, c.Size())
	_, err := c.ReadAt(want, 0)
	require.NoError(t, err)
	want = want[len(c.header):]
	got := make([]byte, len(want))
	out := map[string][]byte{}
	for name, v := range c.Virtual {
		out[name] = got[v.Offset[0]:v.Offset[1]]
	}
	require.NoError(t, c.ReadTensors(out))
	require.True(t, bytes.Equal(want, got))
}

func TestTensorsAreConvertedSideBySide(t *testing.T) {
	for _, packing := range []Packing{Plain, Affine, ForKernels} {
		// Of more than one piece each, with rows in another order, and with parts that nobody asks for.
		c := open(t, build(t, tiny("llama"),
			entry{"token_embd.weight", Q4_1, []uint64{64, 60000}, randomBlocks(Q4_1, 120000)}, entry{"output_norm.weight", F32, []uint64{64}, floats(64)},
			entry{"blk.0.attn_q.weight", Q5_1, []uint64{64, 64}, randomBlocks(Q5_1, 128)}, entry{"blk.0.attn_k.weight", F16, []uint64{64, 32}, make([]byte, 64*32*2)},
			entry{"blk.0.ffn_up.weight", Q6K, []uint64{256, 8}, randomBlocks(Q6K, 8)}), packing)
		requireSideBySide(t, c)
		const name = "model.layers.0.self_attn.q_proj.weight"
		want, got := make([]byte, c.Virtual[name].Bytes()), make([]byte, c.Virtual[name].Bytes())
		require.NoError(t, c.ReadTensor(name, want))
		require.NoError(t, c.ReadTensors(map[string][]byte{name: got}))
		require.Equal(t, want, got)
		require.Error(t, c.ReadTensors(map[string][]byte{name: got[1:]}), "memory of another length")
		require.NoError(t, os.Truncate(c.Path, 5000))
		require.Error(t, c.ReadTensors(map[string][]byte{name: got}), "the file was cut meanwhile")
	}
}

// Whatever a file holds, it ends in a checkpoint whose parts can all be read, or in an error.
func FuzzOpen(f *testing.F) {
	f.Add(build(f, tiny("llama"), entry{"token_embd.weight", Q4_0, []uint64{64, 3}, randomBlocks(Q4_0, 6)}, entry{"blk.0.attn_q.weight", F32, []uint64{2, 8}, floats(16)}))
	gemma := tiny("gemma3")
	gemma["tokenizer.ggml.model"], gemma["tokenizer.ggml.scores"] = "llama", []float32{-1, -2, -3, 0, 0}
	f.Add(build(f, gemma, entry{"token_embd.weight", Q6K, []uint64{256, 2}, randomBlocks(Q6K, 2)}, entry{"output_norm.weight", F32, []uint64{4}, floats(4)}))
	f.Add(file(f, Q8_0, []uint64{64, 2}, 4*34))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "m.gguf")
		require.NoError(t, os.WriteFile(path, data, 0o644))
		for _, packing := range []Packing{Plain, Affine, ForKernels} {
			c, err := Open(path, packing)
			if err != nil {
				return
			}
			_, _, _ = c.Config()
			_, jsonErr := c.Tokenizer()
			_, partsErr := c.Parts()
			require.Equal(t, jsonErr == nil, partsErr == nil, "%v, %v", jsonErr, partsErr)
			_ = c.TokenizerConfig()
			if c.Size() < 1<<24 {
				n, err := c.WriteTo(io.Discard)
				require.NoError(t, err)
				require.Equal(t, c.Size(), n)
				requireSideBySide(t, c)
			}
			require.NoError(t, c.Close())
		}
	})
}
