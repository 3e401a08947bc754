package modelfiles

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestNeedCountsWeightsOfAllAndKV(t *testing.T) {
	folder := func(config string) string {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), make([]byte, 100), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
		return dir
	}
	plain := folder(`{"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "max_position_embeddings": 10}`)
	require.EqualValues(t, 100+10*2*2*2*64, Need(plain))
	grouped := folder(`{"text_config": {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}}`)
	require.EqualValues(t, 100+4096*2*2*3*8, Need(grouped))
	require.EqualValues(t, 2*100+4096*2*2*3*8+10*2*2*2*64, Need(plain, "", grouped))
	for _, config := range []string{`{`, `[]`, `{"num_hidden_layers": -1, "num_attention_heads": 4, "hidden_size": 64}`, `{"num_hidden_layers": 1000000, "num_attention_heads": 1000000, "head_dim": 1000000}`} {
		require.EqualValues(t, 100, Need(folder(config)), config)
	}
	require.Zero(t, Need(filepath.Join(t.TempDir(), "nothing")))
	require.Positive(t, Need(testenv.Model(t)))
}

// An adapter in half precision is held in float32; what training saved on the way is not loaded, nor is a second form of the weights.
func TestNeedCountsWhatIsLoaded(t *testing.T) {
	const text = `{"a.lora_a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"a.lora_b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}}`
	adapter := t.TempDir()
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	require.NoError(t, os.WriteFile(filepath.Join(adapter, "adapters.safetensors"), append(file, make([]byte, 20)...), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(adapter, "0000100_adapters.safetensors"), make([]byte, 5000), 0o600))
	model := t.TempDir()
	for _, name := range []string{"model-00001-of-00001.safetensors", "consolidated.safetensors", "adapters.safetensors"} {
		require.NoError(t, os.WriteFile(filepath.Join(model, name), make([]byte, 100), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(model, "config.json"), []byte("{}"), 0o600))
	require.EqualValues(t, 100+4*6+4*2, Need(model, "", adapter))
	source, err := Find(model)
	require.NoError(t, err)
	require.EqualValues(t, 100, source.Bytes())
}
