package mlxtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Packed is a copy of a checkpoint whose matrices are quantised.
func Packed(t *testing.T, dir string, format mlxc.Quantization) string {
	t.Helper()
	out := t.TempDir()
	require.NoError(t, os.CopyFS(out, os.DirFS(dir)))
	OnThread(t, func(s *mlxc.Scope) {
		packed := map[string]*mlxc.Array{}
		for name, w := range s.LoadSafetensors(filepath.Join(dir, "model.safetensors")) {
			layer, isWeight := strings.CutSuffix(name, ".weight")
			if !isWeight || len(w.Shape()) != 2 {
				packed[name] = w
				continue
			}
			packed[name], packed[layer+".scales"], packed[layer+".biases"] = s.Quantize(w, format)
		}
		require.NoError(t, s.SaveSafetensors(filepath.Join(out, "model.safetensors"), packed, map[string]string{"format": "mlx"}))
	})
	testenv.EditJSON(t, out, "config.json", func(c map[string]any) {
		c["quantization"] = map[string]any{"group_size": format.GroupSize, "bits": format.Bits}
	})
	return out
}
