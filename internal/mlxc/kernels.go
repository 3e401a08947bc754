package mlxc

/*
#include <stdlib.h>
#include "glue.h"
#include "gomlx_kernels.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// The CPU kernels of cpp/kernels as ops. They add in float32, packed weights as sums of
// integers with activations of twelve bits, and each result is one sum in an order that does not depend on
// how many rows or threads there are.

// Layer is the weights [out, in] of a linear layer, or a table: plain, or packed with Scales and Biases. Without Biases packed
// weights are scale*(q - 2^(bits-1)). Bias may be nil.
type Layer struct {
	Weights, Scales, Biases, Bias *Array
	Format                        Quantization // zero for plain weights
}

// Gate is the activation that joins the two halves of a gated MLP.
type Gate int

// Gates.
const (
	NoGate   Gate = C.GOMLX_GATE_NONE
	GELUGate Gate = C.GOMLX_GATE_GELU // in the tanh form
	SiLUGate Gate = C.GOMLX_GATE_SILU
)

// CPULevel is the name of the instruction set that the CPU kernels use, e.g. "avx512bf16". It is an error if the environment
// variable GO_MLX_CPU names one that this processor lacks.
func CPULevel() (string, error) {
	var name *C.char
	err := checkAnywhere("cpu kernels", func() C.int {
		if name = C.gomlx_cpu_level(); name == nil {
			return 1
		}
		return 0
	})
	if err != nil {
		return "", err
	}
	return C.GoString(name), nil
}

// SetCPUThreads sets how many threads the CPU kernels of all models share; 0 is what the machine and the process's
// cgroup offer.
func SetCPUThreads(n int) { C.gomlx_cpu_set_threads(C.int(n)) }

// CPUThreads is how many threads the CPU kernels share.
func CPUThreads() int { return int(C.gomlx_cpu_threads()) }

// layer is a layer for C. Operands that are missing or freed latch an error.
func (s *Scope) layer(op string, l Layer) (out C.gomlx_linear, ok bool) {
	if !s.ready(op, l.Weights) {
		return out, false
	}
	out.weights = l.Weights.h
	if l.Format.Bits != 0 {
		if !s.ready(op, l.Scales) {
			return out, false
		}
		out.scales = l.Scales.h
		if out.biases, ok = s.optional(op, l.Biases); !ok {
			return out, false
		}
		out.bits, out.group, out.interleaved = C.int(l.Format.Bits), C.int(l.Format.GroupSize), flag(l.Format.Interleaved)
	}
	out.bias, ok = s.optional(op, l.Bias)
	return out, ok
}

// LikesInterleaved reports whether the CPU kernels compute with weights of the format faster when these are interleaved.
func (q Quantization) LikesInterleaved() bool { return C.gomlx_likes_interleaved(C.int(q.Bits)) != 0 }

// Interleave brings a layer's packed weights, scales and biases, in place, into the order in which the CPU kernels read them. They
// must be evaluated and the layer's alone. Layers with them have Format.Interleaved from
// then on.
func (s *Scope) Interleave(l Layer) {
	const op = "interleave"
	if in, ok := s.layer(op, l); ok {
		s.Fail(check(op, C.gomlx_interleave(&in)))
	}
}

// Apply takes x [..., in] through layers and returns their outputs one after the other, [..., all of out], in x's type, or in
// float32 if wide. With a gate there are two layers of one size, and the result is gate(first) * second. many is for passes whose keys and values
// are not kept, see gomlx_apply.
func (s *Scope) Apply(x *Array, gate Gate, wide, many bool, layers ...Layer) *Array {
	const op = "apply"
	if !s.ready(op, x) {
		return s.none()
	}
	parts := make([]C.gomlx_linear, len(layers))
	for i, l := range layers {
		var ok bool
		if parts[i], ok = s.layer(op, l); !ok {
			return s.none()
		}
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_apply(&r.h, x.h, unsafe.SliceData(parts), nil, C.int(len(parts)), C.int(gate), flag(wide), flag(many), s.stream))
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Lookup returns rows of a table for ids, int32 or uint32 [...], times scale: [..., columns] in a type. Ids must be in the table.
func (s *Scope) Lookup(table Layer, ids *Array, scale float32, dtype DType) *Array {
	const op = "lookup"
	if !s.ready(op, ids) {
		return s.none()
	}
	t, ok := s.layer(op, table)
	if !ok {
		return s.none()
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_lookup(&r.h, &t, ids.h, C.float(scale), C.mlx_dtype(dtype), s.stream))
}

// Rotation is the cosines and sines of a position embedding over whole heads for positions, int32 [rows, tokens]: float32
// [rows, tokens, Dims].
func (s *Scope) Rotation(positions *Array, p RoPE) *Array {
	const op = "rotation"
	if !s.ready(op, positions) {
		return s.none()
	}
	wavelengths, ok := s.optional(op, p.Freqs)
	if !ok {
		return s.none()
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_rotation(&r.h, positions.h, wavelengths, C.float(p.Base), C.float(p.Scale), C.int(p.Dims), s.stream))
}

// Attention is what an attention pass computes with.
type Attention struct {
	Heads, KVHeads, HeadDim int
	Eps                     float32 // of the norms
	Scale                   float32 // of the scores
	Neighbours              bool    // the rotation is of neighbouring pairs instead of halves
	QNorm, KNorm            *Array  // [head_dim], or nil for both
	DType                   DType   // of keys, values and the result
}

// PastKV is the kept keys and values [1, kv_heads, room, head_dim] of one row of a pass: the first Sinks positions lie at their numbers
// and stay, position p after them lies at Sinks + (p - Sinks) % (room - Sinks). Keys and Values are nil where Length is 0. Room is the
// length of the third axis that the arrays must have after the pass, whose own keys and values go in too. Owned says that no other
// array shares the buffers of Keys and Values, so that they may be written in place.
type PastKV struct {
	Keys, Values *Array
	Length, Room int
	Owned        bool
	Sinks        int
}

func (p PastKV) c() C.gomlx_past {
	return C.gomlx_past{length: C.int(p.Length), room: C.int(p.Room), owned: flag(p.Owned), sinks: C.int(p.Sinks)}
}

// after is the KV of a row once a pass of so many tokens is computed.
func (p PastKV) after(keys, values *Array, tokens int) PastKV {
	return PastKV{Keys: keys, Values: values, Length: p.Length + tokens, Room: p.Room, Owned: true, Sinks: p.Sinks}
}

// VisibleSize is how many numbers say what a token sees: the first past position, the beginnings of two ranges of the pass's
// tokens, and the ends of the two.
const VisibleSize = 5

// Attend norms and rotates the queries and keys of qkv, float32 [rows, tokens, (heads + 2 kv_heads) head_dim], and returns what the
// queries attend to, [rows, tokens, heads head_dim]. rotation is what Rotation gave, visible is int32 [rows, tokens, VisibleSize].
// With keep it also returns the keys and values of each row with those of the pass in them.
func (s *Scope) Attend(a Attention, qkv, rotation, visible *Array, past []PastKV, keep bool) (out *Array, kept []PastKV) {
	const op = "attend"
	if !s.ready(op, qkv, rotation, visible) {
		return s.none(), past
	}
	if len(past) != qkv.Dim(0) {
		s.Fail(fmt.Errorf("mlx: %s: %d rows with kept keys for %d of the pass", op, len(past), qkv.Dim(0)))
		return s.none(), past
	}
	qNorm, ok := s.optional(op, a.QNorm)
	kNorm, ok2 := s.optional(op, a.KNorm)
	if !ok || !ok2 {
		return s.none(), past
	}
	kv, made := make([]C.mlx_array, 2*len(past)), make([]C.mlx_array, 2*len(past))
	rows := make([]C.gomlx_past, len(past))
	for i, p := range past {
		rows[i] = p.c()
		if p.Length == 0 {
			continue
		}
		if !s.ready(op, p.Keys, p.Values) {
			return s.none(), past
		}
		kv[2*i], kv[2*i+1] = p.Keys.h, p.Values.h
	}
	settings := C.gomlx_attention{
		heads: C.int(a.Heads), kv_heads: C.int(a.KVHeads), head_dim: C.int(a.HeadDim), eps: C.float(a.Eps), scale: C.float(a.Scale),
		neighbours: flag(a.Neighbours), keep: flag(keep),
	}
	r := s.fresh()
	s.done(op, r, C.gomlx_attend(&r.h, unsafe.SliceData(made), qkv.h, rotation.h, qNorm, kNorm, visible.h, unsafe.SliceData(kv),
		unsafe.SliceData(rows), &settings, C.mlx_dtype(a.DType), s.stream))
	if !keep {
		return r, nil
	}
	kept = make([]PastKV, len(past))
	for i, p := range past {
		kept[i] = p.after(s.adopt(op, made[2*i]), s.adopt(op, made[2*i+1]), qkv.Dim(1))
	}
	return r, kept
}

// adopt makes the scope the owner of a handle that an op of several results made. After an error it frees it.
func (s *Scope) adopt(op string, h C.mlx_array) *Array {
	if h.ctx == nil {
		return s.none()
	}
	if s.err != nil {
		C.mlx_array_free(h)
		return s.none()
	}
	r := s.fresh()
	r.h = h
	return s.done(op, r, 0)
}

// AddNorm returns h + y, with y, float32, normed by post first if that is given, and the RMSNorm by next of that sum. With clip
// sums stay in float16's range.
func (s *Scope) AddNorm(h, y, post, next *Array, eps float32, clip bool) (sum, normed *Array) {
	const op = "add_norm"
	p, ok := s.optional(op, post)
	if !ok || !s.ready(op, h, y, next) {
		return s.none(), s.none()
	}
	r := s.fresh()
	var second C.mlx_array
	s.done(op, r, C.gomlx_add_norm(&r.h, &second, h.h, y.h, p, next.h, C.float(eps), flag(clip), s.stream))
	return r, s.adopt(op, second)
}

// Norm is RMSNorm by the CPU kernel.
func (s *Scope) Norm(x, weight *Array, eps float32) *Array {
	const op = "norm"
	if !s.ready(op, x, weight) {
		return s.none()
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_rms_norm(&r.h, x.h, weight.h, C.float(eps), s.stream))
}

// GateHalves is gate(first half) * second half of float32 [..., 2 n], in a type.
func (s *Scope) GateHalves(x *Array, gate Gate, dtype DType) *Array {
	const op = "gate"
	if !s.ready(op, x) {
		return s.none()
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_gate(&r.h, x.h, C.int(gate), C.mlx_dtype(dtype), s.stream))
}

// Scores is the log-probabilities, float32 [picks], that the outputs of a layer for x [rows, in] give to ids, int32 [picks] in ascending
// order, in rows, int32 [picks]. The other outputs are summed and forgotten.
func (s *Scope) Scores(x *Array, l Layer, rows, ids *Array) *Array {
	const op = "scores"
	if !s.ready(op, x, rows, ids) {
		return s.none()
	}
	layer, ok := s.layer(op, l)
	if !ok {
		return s.none()
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_scores(&r.h, x.h, &layer, rows.h, ids.h, s.stream))
}

// LogSoftmax is x - log(sum(exp(x))) over the last axis of float32 x, by the CPU kernel.
func (s *Scope) LogSoftmax(x *Array) *Array {
	const op = "log_softmax"
	if !s.ready(op, x) {
		return s.none()
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_log_softmax(&r.h, x.h, s.stream))
}
