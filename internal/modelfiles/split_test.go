package modelfiles

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// part is a GGUF file with texts and numbers in its metadata, and perhaps one matrix of float32.
func part(metadata map[string]any, tensor string, rows, columns int) []byte {
	number := func(b []byte, n int) []byte { return binary.LittleEndian.AppendUint32(b, uint32(n)) }
	long := func(b []byte, n int) []byte { return binary.LittleEndian.AppendUint64(b, uint64(n)) }
	text := func(b []byte, s string) []byte { return append(long(b, len(s)), s...) }
	tensors := 0
	if tensor != "" {
		tensors = 1
	}
	b := long(long(number([]byte("GGUF"), 3), tensors), len(metadata))
	for key, value := range metadata {
		b = text(b, key)
		switch v := value.(type) {
		case string:
			b = text(number(b, 8), v)
		case float32:
			b = number(number(b, 6), int(math.Float32bits(v)))
		case int:
			b = number(number(b, 4), v)
		}
	}
	if tensor == "" {
		return b
	}
	b = long(number(long(long(number(text(b, tensor), 2), columns), rows), 0), 0)
	return append(append(b, make([]byte, (32-len(b)%32)%32)...), make([]byte, rows*columns*4)...)
}

// The first part of a split model may have no tensors at all; what is said of the model is said of all parts.
func TestASplitModelIsDescribedAsAWhole(t *testing.T) {
	dir := t.TempDir()
	for i, data := range [][]byte{
		part(map[string]any{
			"general.architecture": "llama", "llama.embedding_length": 8, "llama.block_count": 1, "llama.feed_forward_length": 8,
			"llama.attention.head_count": 1, "llama.context_length": 16, "llama.attention.layer_norm_rms_epsilon": float32(1e-5), "split.count": 3, "split.no": 0,
		}, "", 0, 0),
		part(map[string]any{"split.count": 3, "split.no": 1}, "token_embd.weight", 10, 8),
		part(map[string]any{"split.count": 3, "split.no": 2}, "blk.0.ffn_up.weight", 8, 8),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("m-%05d-of-00003.gguf", i+1)), data, 0o600))
	}
	s, err := Find(dir)
	require.NoError(t, err)
	types, err := s.Types()
	require.NoError(t, err)
	require.Equal(t, "F32 (2)", types)
	require.EqualValues(t, (80+64)*4, s.Bytes())
	info, err := s.Describe()
	require.NoError(t, err)
	require.EqualValues(t, 80+64, info.Parameters)
	require.Equal(t, 10, info.VocabSize)
}
