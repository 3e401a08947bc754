package fused

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

const (
	maxProjectRows = 128
	// Tiles of eight rows in one block: two sizes only, for each is compiled when it is first used.
	fewTiles, manyTiles = 2, 8
	projectOutputs      = 16       // of a block of pointThreads
	projectPiece        = 32       // of a row, at a time
	maxUnpacked         = 64 << 20 // weights that are unpacked for a product of many rows
)

// Project is l.Apply(x) for x [B, T, in]. For few rows, but more than one, it is a kernel of its own: MLX has cuBLAS do
// these, and to take its work into a CUDA graph costs the host several times what another kernel costs. Packed weights of
// several rows are never left to MLX, which compiles its kernels for them for half a minute: for many rows they are unpacked first.
func (k *Kernels) Project(s *mlxc.Scope, x *mlxc.Array, l *nn.Linear) *mlxc.Array {
	rows, in := x.Dim(0)*x.Dim(1), x.Dim(2)
	weights, bits, group := l.Plain(), 0, 1
	scales, biases := weights, weights // not read
	if weights == nil {
		var format mlxc.Quantization
		weights, scales, biases, format = l.Quantized()
		bits, group = format.Bits, format.GroupSize
		if rows > maxProjectRows && weights != nil && biases != nil && weights.Dim(0)*in <= maxUnpacked {
			return s.Matmul(x, s.Transpose(s.Dequantize(weights, scales, biases, format)))
		}
	}
	if rows < 2 || rows > maxProjectRows && bits == 0 || weights == nil || (bits != 0 && bits != 4) || k.shape.DType == mlxc.Float32 ||
		in%projectPiece != 0 || weights.Dim(0)%projectOutputs != 0 {
		return l.Apply(s, x)
	}
	tiles := fewTiles
	if rows > 8*fewTiles {
		tiles = manyTiles
	}
	blocks := (rows + 8*tiles - 1) / (8 * tiles)
	out := weights.Dim(0)
	return k.run(s, k.project, launch{
		grid: [3]int{out / projectOutputs * pointThreads, blocks, 1}, group: [3]int{pointThreads, 1, 1},
		constants: []int{tiles, bits, group},
		output:    mlxc.Output{Shape: []int{x.Dim(0), x.Dim(1), out}, DType: k.shape.DType},
	}, x, weights, scales, biases)
}
