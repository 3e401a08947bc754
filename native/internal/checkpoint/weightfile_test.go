package checkpoint

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// What is read last is small beside the rest, and no matrix is torn apart: its scales are made along with its weights.
func TestThePartsOfAMatrixAreReadTogether(t *testing.T) {
	for _, layers := range []int{1, 2, 7, 40} {
		for _, megabytes := range []int64{0, 1, 3, 30} {
			f, used := &weightFile{tensors: map[string]safetensors.Tensor{}}, map[string]bool{}
			at, total := int64(0), int64(0)
			put := func(name string, bytes int64) {
				f.tensors[name] = safetensors.Tensor{Offset: [2]int64{at, at + bytes}}
				used[name] = name != "model.layers.0.unused.weight"
				at += bytes
				if used[name] {
					total += bytes
				}
			}
			put("model.norm.weight", 1000)
			for i := range layers {
				for end, size := range map[string]int64{"weight": megabytes << 20, "scales": megabytes << 17, "biases": megabytes << 17} {
					put(fmt.Sprintf("model.layers.%d.mlp.up_proj.%s", i, end), size)
				}
			}
			put("model.layers.0.unused.weight", 1<<30)
			first, last := f.splitNames(used)
			all := slices.Concat(first, last)
			slices.Sort(all)
			require.Len(t, slices.Compact(all), len(f.tensors)-1)
			require.NotContains(t, all, "model.layers.0.unused.weight")
			stems := map[string]bool{}
			for _, name := range first {
				stems[name[:len(name)-len("weight")]] = true
			}
			held := int64(0)
			for _, name := range last {
				require.False(t, stems[name[:len(name)-len("weight")]], name)
				held += f.tensors[name].Bytes()
			}
			require.GreaterOrEqual(t, held, min(heldBack, total/3))
			require.LessOrEqual(t, held, min(heldBack, total/3)+megabytes<<20+megabytes<<18+1000)
		}
	}
}
