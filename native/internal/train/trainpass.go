package train

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// setLoRAs replaces the two arrays of each LoRA until the returned func is called.
func setLoRAs(loras []*nn.LoRA, arrays []*mlxc.Array) (restore func()) {
	before := make([]nn.LoRA, len(loras))
	for i, lora := range loras {
		before[i] = *lora
		lora.A, lora.B = arrays[2*i], arrays[2*i+1]
	}
	return func() {
		for i, lora := range loras {
			*lora = before[i]
		}
	}
}

// newPass prepares a pass over the rows of the batch under way, without a cache. segments, int32 [B, n], keeps the examples of packed rows
// apart; nil without.
func (t *trainer) newPass(s *mlxc.Scope, segments *mlxc.Array) *kv.Pass {
	if t.OnKernels() {
		pass := kv.NewRowsPass(t.batch.rows, t.batch.length, t.batch.segments)
		if t.options.Checkpoint {
			pass.Kernel.Share = t.holdForCheckpoints
			pass.Kernel.Around = func(s *mlxc.Scope, layer int, h, x *mlxc.Array, run kv.KernelLayer) (sum, normed *mlxc.Array) {
				out := t.checkpointed(s, layer, []*mlxc.Array{h, x}, func(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
					h, x := run(s, in[0], in[1])
					return []*mlxc.Array{h, x}
				})
				return out[0], out[1]
			}
		}
		return pass
	}
	n := t.batch.length
	pass, row := kv.NewHistoryPass(s, &kv.History{}, n, t.Shape.Windows)
	if segments != nil {
		// A rotation by position is one by distance, so that an example need not begin at position 0.
		same := s.Equal(s.ExpandDims(segments, 1), s.ExpandDims(segments, 2))
		row.Masks = kv.FillMasks(t.Shape.Windows, func(_, window int) mlxc.Mask {
			seen := kv.CausalMask(s, n, 0, window)
			return mlxc.Mask{Array: s.ExpandDims(s.LogicalAnd(same, seen), 1)}
		})
	}
	if t.options.Checkpoint {
		pass.Around = func(s *mlxc.Scope, layer int, h *mlxc.Array, run func(*mlxc.Scope, *mlxc.Array) *mlxc.Array) *mlxc.Array {
			return t.checkpointed(s, layer, []*mlxc.Array{h}, func(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
				return []*mlxc.Array{run(s, in[0])}
			})[0]
		}
		// Blocks are run again on the way back, when the scope of this pass is closed.
		for _, mask := range row.Masks {
			if mask.Array != nil {
				t.holdForCheckpoints(s, mask.Array)
			}
		}
	}
	return pass
}

// holdForCheckpoints keeps an array that blocks read until the batch under way is done.
func (t *trainer) holdForCheckpoints(s *mlxc.Scope, a *mlxc.Array) {
	if !slices.Contains(t.held, a) {
		t.held = append(t.held, s.Keep(a))
	}
}

// checkpointed runs a block whose inside is computed again for its gradients. It hands the block's trained arrays in: what a
// checkpointed function does not get as an input has no gradient.
func (t *trainer) checkpointed(s *mlxc.Scope, layer int, states []*mlxc.Array, run func(*mlxc.Scope, []*mlxc.Array) []*mlxc.Array) []*mlxc.Array {
	in := slices.Clone(states)
	for _, lora := range t.blocks[layer] {
		in = append(in, lora.A, lora.B)
	}
	out := s.Checkpointed(func(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
		defer setLoRAs(t.blocks[layer], in[len(states):])()
		return run(s, in[:len(states)])
	}, in...)
	if len(out) != len(states) {
		return states // the error is latched
	}
	return out
}

// batchInputs is how many arrays of a batch come before the trained ones.
const batchInputs = 4

// loss takes ids [B, T], the positions that predict, int32 [N], their targets [N], which of these are no padding, bool [N], the
// trained arrays, and for packed rows their segments [B, T]. It returns the mean cross entropy, float32, and over how many
// predictions it goes, int32.
func (t *trainer) loss(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	ids, picks, targets, counts := in[0], in[1], in[2], in[3]
	trained := in[batchInputs : batchInputs+2*len(t.loras)]
	var segments *mlxc.Array
	if len(in) > batchInputs+len(trained) {
		segments = in[batchInputs+len(trained)]
	}
	defer setLoRAs(t.all, trained)()
	h := t.Arch.Hidden(s, ids, t.newPass(s, segments))
	entropy := t.entropy(s, s.Take(s.Reshape(h, -1, h.Dim(2)), picks, 0), targets)
	entropy = s.Multiply(entropy, s.AsType(counts, entropy.DType()))
	number := s.SumAll(s.AsType(counts, mlxc.Int32))
	return []*mlxc.Array{s.Divide(s.SumAll(s.AsType(entropy, mlxc.Float32)), number), number}
}

// entropy is the cross entropy of states [N, hidden] with targets [N].
func (t *trainer) entropy(s *mlxc.Scope, h, targets *mlxc.Array) *mlxc.Array {
	if t.OnKernels() {
		return s.CrossEntropy(h, t.OutputLayer(), targets, t.differentiates)
	}
	logits := t.Arch.Logits(s, h)
	targets = s.ExpandDims(targets, -1)
	// In the order and types of mlx-lm's default_loss.
	logits = s.Subtract(logits, s.StopGradient(s.Max(logits, -1, true)))
	return s.Subtract(s.LogSumExp(logits, -1, false), s.Squeeze(s.TakeAlong(logits, targets, -1), -1))
}
