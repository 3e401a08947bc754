package fused

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// A launch gives shapes and strides after the arrays, input by input, so the source must name them in that order.
func TestAKernelsParametersAreInTheOrderOfALaunch(t *testing.T) {
	k := newKernel("some", "", "out[0] = x[x_strides[1]] + y[y_shape[0]] + y_strides[0] + z[N];",
		[]string{"T x", "float y", "int z"}, "T out", "N")
	require.Equal(t, []mlxc.Layout{{Strides: true}, {Shape: true, Strides: true}, {}}, k.layouts)
	text := k.source([]int{7}, mlxc.BFloat16, []int{2, 1, 1})
	require.True(t, strings.HasPrefix(text, "#define ELEMENT 2\n"))
	_, text, found := strings.Cut(text, `extern "C" __global__ void go_mlx_some(`)
	require.True(t, found)
	parameters, body, _ := strings.Cut(text, ")")
	var names []string
	for _, p := range strings.Split(parameters, ", ") {
		names = append(names, p[strings.LastIndexByte(p, ' ')+1:])
	}
	require.Equal(t, []string{"x", "y", "z", "out", "x_strides0", "x_strides1", "y_shape0", "y_strides0"}, names)
	require.Contains(t, body, "constexpr int N = 7;")
	require.NotEqual(t, text, k.source([]int{8}, mlxc.BFloat16, []int{2, 1, 1}))
}

// Each block has rows of every product, so small models have fewer blocks than the GPU has multiprocessors.
func TestBlocksOfATokenAllHaveWork(t *testing.T) {
	m := TokenModel{Shape: Shape{Heads: 4, KVHeads: 1, HeadDim: 32, HiddenSize: 128, Intermediate: 96}, VocabSize: 4160}
	device := mlxc.CUDADevice{Multiprocessors: 132}
	require.Equal(t, 96, m.blocks(device))
	m.HiddenSize, m.Intermediate = 1152, 6912
	require.Equal(t, 132, m.blocks(device))
}
