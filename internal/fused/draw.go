package fused

import (
	"math"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// drawThreads are those of a block that draws a token; draw.cuh has the same number.
const drawThreads = 1024

func newDraw() *kernel {
	return newKernel("draw", drawHeader, drawBody, []string{"T logits", "int which", "float settings", "uint32_t keys"}, "uint32_t out", "V")
}

// Drawing is how a token is drawn, as mlx-lm does: by top-p, then min-p, then top-k, at a temperature.
type Drawing struct {
	Temperature, TopP, MinP float32 // TopP from 1 on is all, MinP 0 any
	TopK                    int     // 0 is all
}

// Settings are the numbers of a drawing as Draw takes them, float32 [1, 4].
func (d Drawing) Settings(s *mlxc.Scope) *mlxc.Array {
	least := 1.0 // none
	if d.MinP > 0 {
		least = math.Log(float64(d.MinP))
	}
	return s.FromFloats([]float32{float32(1 / float64(d.Temperature)), d.TopP, float32(least), float32(d.TopK)}, 1, 4)
}

// Draws is the type of logits that Draw takes.
func (k *Kernels) Draws() mlxc.DType { return k.shape.DType }

// Draw draws a token, uint32 [N], from each of the rows that which, int32 [N], names of logits [rows, vocab] in the model's type, with settings
// [N, 4] of Drawings and keys uint32 [N, 2]. It is one launch in place of one or two dozen ops for each row, among them a sort of the vocabulary.
func (k *Kernels) Draw(s *mlxc.Scope, logits, which, settings, keys *mlxc.Array) *mlxc.Array {
	n := which.Dim(0)
	return k.run(s, k.draw, launch{
		grid: [3]int{n * drawThreads, 1, 1}, group: [3]int{drawThreads, 1, 1}, constants: []int{logits.Dim(1)},
		output: mlxc.Output{Shape: []int{n}, DType: mlxc.Uint32},
	}, logits, which, settings, keys)
}
