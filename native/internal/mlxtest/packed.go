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
	packed, _ := PackedAndWide(t, dir, format)
	return packed
}

// PackedAndWide are a copy of a checkpoint whose matrices are quantised, and one with what the quantised weights are worth, all in float32.
func PackedAndWide(t *testing.T, dir string, format mlxc.Quantization) (packed, wide string) {
	t.Helper()
	packed, wide = t.TempDir(), t.TempDir()
	for _, out := range []string{packed, wide} {
		require.NoError(t, os.CopyFS(out, os.DirFS(dir)))
	}
	OnThread(t, func(s *mlxc.Scope) {
		small, large := map[string]*mlxc.Array{}, map[string]*mlxc.Array{}
		for name, w := range s.LoadSafetensors(filepath.Join(dir, "model.safetensors")) {
			layer, isWeight := strings.CutSuffix(name, ".weight")
			if !isWeight || len(w.Shape()) != 2 {
				small[name], large[name] = w, s.AsType(w, mlxc.Float32)
				continue
			}
			q, scales, biases := s.Quantize(w, format)
			small[name], small[layer+".scales"], small[layer+".biases"] = q, scales, biases
			large[name] = s.Dequantize(q, s.AsType(scales, mlxc.Float32), s.AsType(biases, mlxc.Float32), format)
		}
		for out, arrays := range map[string]map[string]*mlxc.Array{packed: small, wide: large} {
			require.NoError(t, s.SaveSafetensors(filepath.Join(out, "model.safetensors"), arrays, map[string]string{"format": "mlx"}))
		}
	})
	testenv.EditJSON(t, packed, "config.json", func(c map[string]any) {
		c["quantization"] = map[string]any{"group_size": format.GroupSize, "bits": format.Bits}
	})
	return packed, wide
}
