package modelfiles

import (
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
