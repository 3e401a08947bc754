// Package kv holds the keys and values of earlier tokens that a pass attends to and adds to: caches of one layer, the sequences
// that they make up, and what is kept of them between requests.
package kv

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Pass tells the layers of a decoder about the tokens that go through them together: their positions, what they attend
// to, and the func that observes the results. A pass is used once.
type Pass struct {
	// Where the tokens of every row begin: all at first, or row by row at starts, int32 [B]. at, if it is set, is the position of
	// each token, int32 [T], and neither of the others counts.
	first      int
	Starts, At *mlxc.Array
	// Memory is what MLX's ops and the CUDA kernels attend to; nil in a pass for the CPU kernels.
	Memory Memory
	// Kernel is the same for the CPU kernels; nil in a pass for MLX's ops.
	Kernel *KernelPass
	// Observe, if it is set, sees what ops of a layer put out, named as their modules are in a checkpoint ("mlp.down_proj"), or
	// with one of the names below. The CPU kernels then run op by op.
	Observe func(layer int, op string, h *mlxc.Array)
	// Around, if it is set, runs a layer of MLX's ops or the CUDA kernels its own way.
	Around func(s *mlxc.Scope, layer int, h *mlxc.Array, run func(*mlxc.Scope, *mlxc.Array) *mlxc.Array) *mlxc.Array
}

// Memory is keys and values of earlier positions, to which a pass may add.
type Memory interface {
	// Attend adds the pass's keys and values [B, kv_heads, T, head_dim] of a layer and returns what its queries
	// [B, heads, T, head_dim] attend to, [B, T, heads*head_dim]. scale multiplies the scores.
	Attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array
}

// What a pass observes besides modules. Rotated queries and keys are in the shape [B, heads, T, head_dim].
const (
	OpInput  = "input"  // of the first layer, [B, T, hidden]
	OpOutput = "output" // of a layer, [B, T, hidden]
	OpRopeQ  = "self_attn.rope"
	OpRopeK  = "self_attn.rope.2"

	OpInputNorm         = "input_layernorm"
	OpAttention         = "self_attn.o_proj"
	OpPostAttentionNorm = "post_attention_layernorm"
	OpPreMLPNorm        = "pre_feedforward_layernorm"
	OpMLP               = "mlp.down_proj"
	OpPostMLPNorm       = "post_feedforward_layernorm"
)

var errNoMemory = errors.New("a pass for the CPU kernels was given to MLX's ops")

// Rotate turns queries or keys [B, heads, T, head_dim] to their positions.
func (p *Pass) Rotate(s *mlxc.Scope, x *mlxc.Array, rope mlxc.RoPE) *mlxc.Array {
	switch {
	case p.At != nil:
		s.Fail(errors.New("rope: such positions are the CUDA kernels' affair"))
		return x
	case p.Starts != nil:
		return s.RoPEAt(x, rope, p.Starts)
	}
	return s.RoPE(x, rope, p.first)
}

// Positions are those of every token of so many rows: int32 [tokens] for one row, [rows] for one token of each, or
// [rows, tokens].
func (p *Pass) Positions(s *mlxc.Scope, rows, tokens int) *mlxc.Array {
	switch {
	case p.At != nil:
		return p.At
	case p.Starts != nil && tokens == 1:
		return p.Starts
	case p.Starts != nil:
		return s.Add(s.ExpandDims(p.Starts, 1), s.ExpandDims(s.Arange(0, tokens, mlxc.Int32), 0))
	}
	row := s.Arange(p.first, p.first+tokens, mlxc.Int32)
	if rows == 1 {
		return row
	}
	return s.Contiguous(s.BroadcastTo(s.ExpandDims(row, 0), rows, tokens))
}

// Attend is the memory's Attend.
func (p *Pass) Attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	if p.Memory == nil {
		s.Fail(errNoMemory)
		return q
	}
	return p.Memory.Attend(s, layer, q, k, v, scale)
}

// Seen tells of what an op puts out, and returns it.
func (p *Pass) Seen(layer int, op string, h *mlxc.Array) *mlxc.Array {
	if p.Observe != nil {
		p.Observe(layer, op, h)
	}
	return h
}

// RunLayer runs a layer as the pass wants it.
func (p *Pass) RunLayer(s *mlxc.Scope, layer int, h *mlxc.Array, run func(*mlxc.Scope, *mlxc.Array) *mlxc.Array) *mlxc.Array {
	if p.Around == nil {
		return run(s, h)
	}
	return p.Around(s, layer, h, run)
}

// FillMasks gives every layer its mask, made once for each window.
func FillMasks(windows []int, mask func(layer, window int) mlxc.Mask) []mlxc.Mask {
	masks, shared := make([]mlxc.Mask, len(windows)), map[int]mlxc.Mask{}
	for layer, window := range windows {
		m, ok := shared[window]
		if !ok {
			m = mask(layer, window)
			shared[window] = m
		}
		masks[layer] = m
	}
	return masks
}

// MergeHeads makes [B, heads, T, head_dim] into [B, T, heads*head_dim].
func MergeHeads(s *mlxc.Scope, x *mlxc.Array) *mlxc.Array {
	b, t := x.Dim(0), x.Dim(2)
	return s.Reshape(s.Transpose(x, 0, 2, 1, 3), b, t, -1)
}
