package decoder

import (
	"math"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// exactDecoder runs a decoder with MLX's own ops, in the order in which mlx-lm uses them, so that on one device both give
// the same bits.
type exactDecoder struct {
	*decoderSpec
	scale *mlxc.Array    // of embeddings, rounded to bfloat16 as in training; nil without
	gated *mlxc.Function // compiled as in mlx-lm: GELU of the gate, or SiLU of the gate times up
}

// newExactDecoder also computes an activation, for which MLX may compile a kernel, if the decoder is ever going to run.
func newExactDecoder(spec *decoderSpec, owner *mlxc.Scope, lease *mlxc.Lease, runs bool) (_ *exactDecoder, err error) {
	d := &exactDecoder{decoderSpec: spec}
	operands := 1
	activation := func(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array { return []*mlxc.Array{nn.GELUApprox(s, in[0])} }
	if spec.gate == mlxc.SiLUGate {
		operands = 2
		activation = func(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
			return []*mlxc.Array{s.Multiply(nn.SiLU(s, in[0]), in[1])}
		}
	}
	if d.gated, err = lease.Compile(true, activation); err != nil {
		return nil, err
	}
	if spec.embedScale != 0 {
		d.scale = owner.AsType(owner.Scalar(spec.embedScale, mlxc.BFloat16), spec.norm.DType())
		if err := owner.Eval(d.scale); err != nil {
			return d, err
		}
	}
	if !runs {
		return d, nil
	}
	return d, warm(owner, d.gated, operands, spec.norm.DType(), spec.intermediate)
}

// lookup is the scaled embeddings of ids.
func (d *exactDecoder) lookup(s *mlxc.Scope, ids *mlxc.Array) *mlxc.Array {
	h := d.embed.Lookup(s, ids, d.norm.DType())
	if d.scale == nil {
		return h
	}
	return s.Multiply(h, d.scale)
}

// Hidden runs the layers on token ids [B, T] and returns the normed states [B, T, hidden].
func (d *exactDecoder) Hidden(s *mlxc.Scope, ids *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	return d.run(s, d.lookup(s, ids), pass)
}

// Logits maps states [..., hidden] to [..., vocab].
func (d *exactDecoder) Logits(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array {
	return d.output().Apply(s, h)
}

func (d *exactDecoder) run(s *mlxc.Scope, h *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	pass.Seen(0, kv.OpInput, h)
	for i := range d.layers {
		h = pass.RunLayer(s, i, h, func(s *mlxc.Scope, h *mlxc.Array) *mlxc.Array { return d.block(s, i, h, pass) })
	}
	return s.RMSNorm(h, d.norm, d.eps)
}

func (d *exactDecoder) block(s *mlxc.Scope, layer int, h *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	l := &d.layers[layer]
	seen := func(op string, x *mlxc.Array) *mlxc.Array { return pass.Seen(layer, op, x) }
	x := seen(kv.OpInputNorm, s.RMSNorm(h, l.inputNorm, d.eps))
	x = seen(kv.OpAttention, d.attention(s, l, layer, x, pass))
	beforeMLP := kv.OpPostAttentionNorm // that name is of the norm after attention where there is one, else of the one before the MLP
	if l.postAttentionNorm != nil {
		x, beforeMLP = seen(kv.OpPostAttentionNorm, s.RMSNorm(x, l.postAttentionNorm, d.eps)), kv.OpPreMLPNorm
	}
	h = d.residual(s, h, x)
	x = seen(beforeMLP, s.RMSNorm(h, l.preMLPNorm, d.eps))
	gate, up := seen("mlp.gate_proj", l.gate.Apply(s, x)), seen("mlp.up_proj", l.up.Apply(s, x))
	if d.gate == mlxc.SiLUGate {
		x = callOne(s, d.gated, gate, up)
	} else {
		x = s.Multiply(callOne(s, d.gated, gate), up)
	}
	x = seen(kv.OpMLP, l.down.Apply(s, x))
	if l.postMLPNorm != nil {
		x = seen(kv.OpPostMLPNorm, s.RMSNorm(x, l.postMLPNorm, d.eps))
	}
	return seen(kv.OpOutput, d.residual(s, h, x))
}

func (d *exactDecoder) attention(s *mlxc.Scope, l *decoderLayer, layer int, x *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	seen := func(op string, x *mlxc.Array) *mlxc.Array { return pass.Seen(layer, op, x) }
	q := splitHeads(s, seen("self_attn.q_proj", l.q.Apply(s, x)), d.heads)
	k := splitHeads(s, seen("self_attn.k_proj", l.k.Apply(s, x)), d.kvHeads)
	v := splitHeads(s, seen("self_attn.v_proj", l.v.Apply(s, x)), d.kvHeads)
	if l.qNorm != nil {
		q = seen("self_attn.q_norm", s.RMSNorm(q, l.qNorm, d.eps))
		k = seen("self_attn.k_norm", s.RMSNorm(k, l.kNorm, d.eps))
	}
	q, k = seen(kv.OpRopeQ, pass.Rotate(s, q, l.rope)), seen(kv.OpRopeK, pass.Rotate(s, k, l.rope))
	return l.o.Apply(s, pass.Attend(s, layer, q, k, v, d.attentionScale))
}

// residual adds, and clips where activations exceed float16's range instead of overflowing.
func (d *exactDecoder) residual(s *mlxc.Scope, x, y *mlxc.Array) *mlxc.Array {
	if !d.clips() {
		return s.Add(x, y)
	}
	const bound = 65504
	sum := s.Add(s.AsType(x, mlxc.Float32), s.AsType(y, mlxc.Float32))
	sum = s.Minimum(s.Maximum(sum, s.Scalar(-bound, mlxc.Float32)), s.Scalar(bound, mlxc.Float32))
	return s.AsType(sum, mlxc.Float16)
}

// Close frees the compiled activation.
func (d *exactDecoder) Close() error {
	if d == nil {
		return nil
	}
	return d.gated.Close()
}

// rsqrt is 1 / sqrt(x).
func rsqrt(x float64) float32 { return float32(math.Pow(x, -0.5)) }
