package native

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// The kernels compute with packed weights in an order of their own; MLX's ops compute with them as they are in the file.
func TestPackedModelsAreTheSameByKernelsAndByMLXsOps(t *testing.T) {
	for _, q := range []mlxc.Quantization{{Bits: 4, GroupSize: 32}, {Bits: 8, GroupSize: 64}} {
		dir := mlxtest.Packed(t, testenv.Model(t), q)
		var all [2][]engine.Token
		for i, exact := range []bool{false, true} {
			m := openPath(t, dir, engine.NativeOptions{Exact: exact})
			var err error
			all[i], err = m.PromptLogProbs(t.Context(), []int32{2, 100, 200, 300, 400, 500, 600, 700}, 0)
			require.NoError(t, err)
		}
		for i := range all[0] {
			require.InDelta(t, all[1][i].LogProb, all[0][i].LogProb, 0.3, "token %d with %d bits", i, q.Bits)
		}
	}
}

// Passes whose keys and values nobody keeps may compute with packed weights in another way than others. A text's states are the same alone and
// among others all the same where the CPU kernels compute them, and near those of the unpacked weights in float32.
func TestStatesOfAPackedModelAreTheSameAloneAndNearFloat32(t *testing.T) {
	for _, q := range []mlxc.Quantization{{Bits: 4, GroupSize: 64}, {Bits: 5, GroupSize: 32}, {Bits: 8, GroupSize: 32}} {
		packed, wide := mlxtest.PackedAndWide(t, testenv.Model(t), q)
		m, reference := openPath(t, packed, engine.NativeOptions{}), openPath(t, wide, engine.NativeOptions{})
		texts := testenv.Texts(t)[:24]
		options := engine.StatesOptions{Layers: []int{1, len(m.network.Shape.Windows)}}
		together, err := m.States(t.Context(), texts, options)
		require.NoError(t, err)
		want, err := reference.States(t.Context(), texts, options)
		require.NoError(t, err)
		for i, text := range texts {
			alone, err := m.States(t.Context(), []string{text}, options)
			require.NoError(t, err)
			for l := range options.Layers {
				if strings.HasPrefix(m.Info().Kernels, "cpu") {
					require.Equal(t, together[l][i], alone[l][0], "%d bits, text %d", q.Bits, i)
				}
				require.Less(t, testenv.RelativeDifference(want[l][i], alone[l][0]), 1e-2, "%d bits, text %d, layer %d", q.Bits, i, options.Layers[l])
				require.Less(t, testenv.RelativeDifference(want[l][i], together[l][i]), 1e-2, "%d bits, text %d, layer %d", q.Bits, i, options.Layers[l])
			}
		}
	}
}

// Packed weights without biases lie around zero in a GGUF file, and are incomplete in any other.
func TestPackedWeightsThatAreIncompleteAreRefused(t *testing.T) {
	const name = "model.layers.1.mlp.up_proj."
	for what, c := range map[string]struct {
		change func(s *mlxc.Scope, tensors map[string]*mlxc.Array)
		want   string
	}{
		"no biases": {func(_ *mlxc.Scope, tensors map[string]*mlxc.Array) { delete(tensors, name+"biases") }, "missing tensor " + name + "biases"},
		"scales of whole numbers": {func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
			tensors[name+"scales"] = s.AsType(tensors[name+"scales"], mlxc.Uint8)
		}, "scales U8 and biases BF16 are not those of affine quantisation"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := mlxtest.Packed(t, testenv.Model(t), mlxc.Quantization{Bits: 4, GroupSize: 32})
			rewrite(t, dir, c.change)
			m, err := Load(t.Context(), dir, engine.NativeOptions{})
			require.Nil(t, m)
			var checkpoint *engine.CheckpointError
			require.ErrorAs(t, err, &checkpoint)
			require.ErrorContains(t, err, c.want)
		})
	}
}
