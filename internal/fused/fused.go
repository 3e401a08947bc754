// Package fused holds CUDA kernels that do the small steps of a decoder layer together. MLX's CUDA back end
// spends microseconds of the host on every kernel, and a token of a small model is made of hundreds: their
// number, not the GPU, is what decoding waits for. The kernels round where MLX's own ops round; what
// differs is the order of sums inside a norm or an attention.
package fused

import (
	_ "embed" // the kernels' sources
	"errors"
	"math"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

//go:embed common.cuh
var common string

//go:embed norm_rope.cu
var normRopeBody string

//go:embed add_norm.cu
var addNormBody string

//go:embed gate.cu
var gateBody string

//go:embed rows.cu
var rowsBody string

//go:embed pick.cu
var pickBody string

//go:embed scores.cu
var scoresBody string

//go:embed weigh.cu
var weighBody string

//go:embed project.cuh
var projectHeader string

//go:embed project.cu
var projectBody string

//go:embed attend.cu
var attendBody string

//go:embed packed.cu
var packedBody string

//go:embed draw.cuh
var drawHeader string

//go:embed draw.cu
var drawBody string

const (
	warp         = 32
	rowThreads   = 512 // of a block that norms a row
	pointThreads = 256 // of a block that works element by element

	// MinCapability is the major compute capability of NVIDIA GPUs that the kernels need: Ampere's.
	MinCapability = 8
)

// Kernels are the kernels for models of one shape. The owner closes them.
//
// Every kernel has one output: what belongs together is slices of it. MLX (0.32) never frees the trace of a
// compiled function in which an op of several outputs occurs, nor the weights that the trace refers to.
type Kernels struct {
	shape  Shape
	device mlxc.CUDADevice

	normRope, addNorm, gate, scores, weigh, attend, packed, project, rows, pick, draw *kernel

	settings, scale *mlxc.Array

	launched func(s *mlxc.Scope, of *kernel, l launch, inputs []*mlxc.Array) *mlxc.Array // in place of a GPU, in tests; else nil
}

// Shape is what the kernels are compiled for.
type Shape struct {
	Heads, KVHeads, HeadDim  int
	HiddenSize, Intermediate int
	QKNorm                   bool // queries and keys are normed
	PostNorm                 bool // what a block puts out is normed before it is added
	GELU                     bool // the gate is GELU's tanh form, not SiLU
	RMSNormEps               float32
	AttentionScale           float32
	DType                    mlxc.DType
}

// Fits reports whether the kernels can serve a shape.
func (s Shape) Fits() bool {
	return s.HeadDim%warp == 0 && s.HeadDim <= 1024 && s.DType.IsFloat() && s.DType != mlxc.Float64
}

// New prepares the kernels for a lease's device; owner owns their constants.
func New(owner *mlxc.Scope, lease *mlxc.Lease, shape Shape) (*Kernels, error) {
	device, err := lease.CUDADevice()
	if err != nil {
		return nil, err
	}
	k := newKernels(shape)
	k.device = device
	return k, k.makeConstants(owner)
}

func newKernels(shape Shape) *Kernels {
	return &Kernels{
		shape: shape,
		normRope: newKernel("norm_rope", "", normRopeBody,
			[]string{"T qkv", "T q_weight", "T k_weight", "int positions", "float freqs", "float settings"}, "T out", "H", "KV", "D", "NORM", "FREQS"),
		addNorm: newKernel("add_norm", "", addNormBody,
			[]string{"T h", "T y", "T post_weight", "T next_weight", "float settings"}, "T out", "N", "THREADS", "POST", "CLIP"),
		gate:   newKernel("gate", "", gateBody, []string{"T gate_up"}, "T out", "N", "GELU"),
		scores: newKernel("scores", "", scoresBody, []string{"T queries", "T keys", "float scale", "int filled"}, "T out", "H", "KV", "D", "FILLED"),
		weigh:  newKernel("weigh", "", weighBody, []string{"T scores", "T values", "int filled"}, "T out", "H", "KV", "D", "FILLED"),
		attend: newKernel("attend", "", attendBody,
			[]string{"T queries", "T keys", "T values", "int filled", "float scale"}, "T out", "H", "KV", "D", "MAX_KEYS"),
		packed: newKernel("packed", "", packedBody,
			[]string{"T queries", "T past_keys", "T past_values", "T keys", "T values", "bool visible", "float scale"}, "T out", "H", "KV", "D", "MAX_KEYS"),
		project: newKernel("project", projectHeader, projectBody,
			[]string{"T x", "void weights", "T scales", "T biases"}, "T out", "TILES", "BITS", "GROUP"),
		rows: newKernel("rows", "", rowsBody, []string{"T table", "int ids", "T factor"}, "T out", "N", "SCALED"),
		pick: newKernel("pick", "", pickBody, []string{"float logits", "float sums", "int picks", "int rows"}, "float out"),
		draw: newDraw(),
	}
}

func (k *Kernels) makeConstants(owner *mlxc.Scope) error {
	k.settings = owner.FromFloats([]float32{k.shape.RMSNormEps}, 1)
	k.scale = owner.FromFloats([]float32{k.shape.AttentionScale}, 1)
	return errors.Join(owner.Err(), owner.Eval(k.settings, k.scale))
}

// Shape is what the kernels were made for.
func (k *Kernels) Shape() Shape { return k.shape }

// Close gives the kernels back.
func (k *Kernels) Close() {
	if k == nil {
		return
	}
	for _, kernel := range []*kernel{k.normRope, k.addNorm, k.gate, k.scores, k.weigh, k.attend, k.packed, k.project, k.rows, k.pick, k.draw} {
		kernel.close()
	}
}

// Rotation is a position embedding as NormRope takes it.
type Rotation struct {
	settings *mlxc.Array // float32 [3]: eps of the norms, log2 of RoPE's base, scale of positions
	freqs    *mlxc.Array // nil without
}

// NewRotation makes the constants of a position embedding over halves of the whole head; owner owns them.
func (k *Kernels) NewRotation(owner *mlxc.Scope, p mlxc.RoPE) Rotation {
	base := math.Log2(float64(max(p.Base, 1)))
	r := Rotation{settings: owner.FromFloats([]float32{k.shape.RMSNormEps, float32(base), p.Scale}, 3), freqs: p.Freqs}
	if err := owner.Eval(r.settings); err != nil {
		owner.Fail(err)
	}
	return r
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// NormRope splits the joined projections qkv [B, T, (heads + 2 kv_heads) head_dim] into queries
// [B, heads, T, head_dim], keys and values [B, kv_heads, T, head_dim], norms queries and keys if the
// model does, and rotates them. positions is int32 [B, T].
func (k *Kernels) NormRope(s *mlxc.Scope, qkv, qWeight, kWeight, positions *mlxc.Array, r Rotation) (q, keys, values *mlxc.Array) {
	if !k.shape.QKNorm {
		qWeight, kWeight = r.settings, r.settings // not read
	}
	freqs := r.freqs
	if freqs == nil {
		freqs = r.settings // not read
	}
	b, t, d := qkv.Dim(0), qkv.Dim(1), k.shape.HeadDim
	slots := k.shape.Heads + 2*k.shape.KVHeads
	out := k.run(s, k.normRope, launch{
		grid: [3]int{b * t * slots * d, 1, 1}, group: [3]int{d, 1, 1},
		constants: []int{k.shape.Heads, k.shape.KVHeads, d, flag(k.shape.QKNorm), flag(r.freqs != nil)},
		output:    mlxc.Output{Shape: []int{b, slots, t, d}, DType: k.shape.DType},
	}, qkv, qWeight, kWeight, positions, freqs, r.settings)
	firstValue := k.shape.Heads + k.shape.KVHeads
	return s.Slice(out, 1, 0, k.shape.Heads), s.Slice(out, 1, k.shape.Heads, firstValue), s.Slice(out, 1, firstValue, slots)
}

// AddNorm returns h + y, with y normed by post first if the model does that, and that sum normed by
// next. h and y are [B, T, hidden], the weights [hidden]. The sums are in the first half of an array
// [2 B, T, hidden]: AddNorm takes that as h too, without an op to cut it, and Sums cuts it.
func (k *Kernels) AddNorm(s *mlxc.Scope, h, y, post, next *mlxc.Array) (sums, normed *mlxc.Array) {
	if !k.shape.PostNorm {
		post = next // not read
	}
	b, t, n := y.Dim(0), y.Dim(1), k.shape.HiddenSize
	clip := k.shape.PostNorm && k.shape.DType == mlxc.Float16 // Gemma's activations exceed float16's range
	out := k.run(s, k.addNorm, launch{
		grid: [3]int{b * t * rowThreads, 1, 1}, group: [3]int{rowThreads, 1, 1},
		constants: []int{n, rowThreads, flag(k.shape.PostNorm), flag(clip)},
		output:    mlxc.Output{Shape: []int{2 * b, t, n}, DType: k.shape.DType},
	}, h, y, post, next, k.settings)
	return out, s.Slice(out, 0, b, 2*b)
}

// Sums is the sums that AddNorm returned, [B, T, hidden].
func (k *Kernels) Sums(s *mlxc.Scope, sums *mlxc.Array) *mlxc.Array {
	return s.Slice(sums, 0, 0, sums.Dim(0)/2)
}

// Rows is the rows [B, T, hidden] of a table in the model's type that ids [B, T] name, times a factor of one number if there is one. MLX
// would compile kernels for that when a process first asks.
func (k *Kernels) Rows(s *mlxc.Scope, table, ids, factor *mlxc.Array) *mlxc.Array {
	b, t, n, scaled := ids.Dim(0), ids.Dim(1), k.shape.HiddenSize, factor != nil
	if !scaled {
		factor = table // not read
	}
	return k.run(s, k.rows, launch{
		grid: [3]int{b * t * n, 1, 1}, group: [3]int{pointThreads, 1, 1}, constants: []int{n, flag(scaled)},
		output: mlxc.Output{Shape: []int{b, t, n}, DType: k.shape.DType},
	}, table, ids, factor)
}

// Picks is the numbers that picks [N] name among all of logits, float32, less those of sums, float32, that rows [N] name.
func (k *Kernels) Picks(s *mlxc.Scope, logits, sums, picks, rows *mlxc.Array) *mlxc.Array {
	n := picks.Dim(0)
	return k.run(s, k.pick, launch{
		grid: [3]int{n, 1, 1}, group: [3]int{pointThreads, 1, 1}, output: mlxc.Output{Shape: []int{n}, DType: mlxc.Float32},
	}, logits, sums, picks, rows)
}

// Gate is the activation of the first half of gateUp [B, T, 2 intermediate] times its second half.
func (k *Kernels) Gate(s *mlxc.Scope, gateUp *mlxc.Array) *mlxc.Array {
	b, t, n := gateUp.Dim(0), gateUp.Dim(1), k.shape.Intermediate
	return k.run(s, k.gate, launch{
		grid: [3]int{b * t * n, 1, 1}, group: [3]int{pointThreads, 1, 1},
		constants: []int{n, flag(k.shape.GELU)},
		output:    mlxc.Output{Shape: []int{b, t, n}, DType: k.shape.DType},
	}, gateUp)
}
