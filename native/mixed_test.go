package native

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Some checkpoints keep their norms, or some of them, in another type than the matrices.
func TestTensorsOfSeveralTypesLoad(t *testing.T) {
	prompt := []int32{2, 100, 200, 300, 400, 500, 600, 700}
	reference := openPath(t, testenv.InFloat32(t, testenv.Model(t)), engine.NativeOptions{})
	want, err := reference.PromptLogProbs(t.Context(), prompt, 0)
	require.NoError(t, err)
	for what, other := range map[string]func(name string) bool{
		"last norm":        func(name string) bool { return name == "model.norm.weight" },
		"norms of queries": func(name string) bool { return strings.HasSuffix(name, "q_norm.weight") },
		"norms":            func(name string) bool { return strings.HasSuffix(name, "norm.weight") },
		"matrices":         func(name string) bool { return !strings.HasSuffix(name, "norm.weight") },
		"a matrix":         func(name string) bool { return name == "model.layers.0.mlp.up_proj.weight" },
	} {
		for _, dtype := range []mlxc.DType{mlxc.Float32, mlxc.Float16} {
			dir := testenv.CopyModel(t)
			rewrite(t, dir, func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
				for name, a := range tensors {
					if other(name) {
						tensors[name] = s.AsType(a, dtype)
					}
				}
			})
			for _, exact := range []bool{false, true} {
				m := openPath(t, dir, engine.NativeOptions{Exact: exact})
				got, err := m.PromptLogProbs(t.Context(), prompt, 0)
				require.NoError(t, err)
				for i := range want {
					require.InDelta(t, want[i].LogProb, got[i].LogProb, 0.3, "%s in %v, exact: %v", what, dtype, exact)
				}
			}
		}
	}
}

// MLX's ops would compute with whole numbers, or fail without the tensor's name.
func TestTensorsThatAreNoFloatsAreNamed(t *testing.T) {
	for _, name := range []string{"model.embed_tokens.weight", "model.norm.weight", "model.layers.3.self_attn.q_norm.weight", "model.layers.0.mlp.up_proj.weight"} {
		dir := testenv.CopyModel(t)
		rewrite(t, dir, func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
			tensors[name] = s.AsType(tensors[name], mlxc.Int32)
		})
		for _, exact := range []bool{false, true} {
			_, err := Load(t.Context(), dir, engine.NativeOptions{Exact: exact})
			var bad *engine.CheckpointError
			require.ErrorAs(t, err, &bad, filepath.Base(name))
			require.Equal(t, []string{"tensor " + name + " is of type I32, and the native engine computes with BF16, F16 and F32"}, bad.Problems)
		}
	}
}
