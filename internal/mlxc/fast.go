package mlxc

/*
#include "glue.h"
*/
import "C"

import "fmt"

// RMSNorm is a / sqrt(mean(a^2) + eps) * weight over the last axis (Zhang and Sennrich 2019,
// arXiv:1910.07467). weight has the length of the last axis, or is nil.
func (s *Scope) RMSNorm(a, weight *Array, eps float32) *Array {
	w, ok := s.optional("rms_norm", weight)
	if !ok || !s.ready("rms_norm", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("rms_norm", r, C.mlx_fast_rms_norm(&r.h, a.h, w, C.float(eps), s.stream))
}

// LayerNorm is (a - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al. 2016,
// arXiv:1607.06450). weight and bias may be nil.
func (s *Scope) LayerNorm(a, weight, bias *Array, eps float32) *Array {
	w, ok := s.optional("layer_norm", weight)
	b, ok2 := s.optional("layer_norm", bias)
	if !ok || !ok2 || !s.ready("layer_norm", a) {
		return s.none()
	}
	r := s.fresh()
	return s.done("layer_norm", r, C.mlx_fast_layer_norm(&r.h, a.h, w, b, C.float(eps), s.stream))
}

// RoPE describes a rotary position embedding (Su et al. 2021, arXiv:2104.09864).
type RoPE struct {
	Dims        int     // how many of the last axis' elements are rotated
	Base        float32 // base of the angular frequencies; unused when Freqs is set
	Scale       float32 // positions are multiplied by it; linear rope scaling by f is 1/f
	Traditional bool    // rotate neighbouring pairs instead of halves
	Freqs       *Array  // float32 [Dims/2] reciprocal frequencies, or nil
}

// RoPE rotates a [B, heads, T, head_dim] whose first position along T is offset.
func (s *Scope) RoPE(a *Array, p RoPE, offset int) *Array {
	base, freqs, ok := s.ropeArgs(a, p)
	if !ok {
		return s.none()
	}
	r := s.fresh()
	return s.done("rope", r, C.mlx_fast_rope(&r.h, a.h, C.int(p.Dims), C.bool(p.Traditional), base, C.float(p.Scale), C.int(offset), freqs, s.stream))
}

// RoPEAt is RoPE with offsets as an int32 array: one for all rows, or one for each row [B].
func (s *Scope) RoPEAt(a *Array, p RoPE, offset *Array) *Array {
	base, freqs, ok := s.ropeArgs(a, p)
	if !ok || !s.ready("rope", offset) {
		return s.none()
	}
	r := s.fresh()
	return s.done("rope", r, C.mlx_fast_rope_dynamic(&r.h, a.h, C.int(p.Dims), C.bool(p.Traditional), base, C.float(p.Scale), offset.h, freqs, s.stream))
}

func (s *Scope) ropeArgs(a *Array, p RoPE) (base C.mlx_optional_float, freqs C.mlx_array, ok bool) {
	freqs, ok = s.optional("rope", p.Freqs)
	if !ok || !s.ready("rope", a) {
		return base, freqs, false
	}
	if p.Freqs == nil {
		base.value, base.has_value = C.float(p.Base), true
	}
	return base, freqs, true
}

// Mask says which keys a query may attend to.
type Mask struct {
	Causal bool   // a query sees the keys up to its own position, the last query the last key
	Array  *Array // bool, true where it may attend, broadcastable to [B, heads, Tq, Tk]; nil for none
}

// SDPA is softmax(q k^T * scale + mask) v (Vaswani et al. 2017, arXiv:1706.03762). q is
// [B, heads, Tq, head_dim], k and v are [B, kv_heads, Tk, head_dim]; heads is a multiple of kv_heads.
func (s *Scope) SDPA(q, k, v *Array, scale float32, mask Mask) *Array {
	const op = "scaled_dot_product_attention"
	if mask.Causal && mask.Array != nil {
		s.Fail(fmt.Errorf("mlx: %s: mask is both causal and an array", op))
	}
	m, ok := s.optional(op, mask.Array)
	if !ok || !s.ready(op, q, k, v) {
		return s.none()
	}
	mode := 0
	switch {
	case mask.Causal:
		mode = 1
	case mask.Array != nil:
		mode = 2
	}
	var sinks C.mlx_array
	r := s.fresh()
	return s.done(op, r, C.mlx_fast_scaled_dot_product_attention(&r.h, q.h, k.h, v.h, C.float(scale), C.gomlx_mask_modes[mode], m, sinks, false, s.stream))
}

// optional is the handle of an operand that may be nil.
func (s *Scope) optional(op string, a *Array) (h C.mlx_array, ok bool) {
	if a == nil {
		return h, true
	}
	return a.h, s.ready(op, a)
}
