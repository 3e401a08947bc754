package mlxc

/*
#include <stdlib.h>
#include "glue.h"
#include "gomlx_kernels.h"
*/
import "C"

import "unsafe"

// The CPU kernels have gradients: Apply, Adapted, Attend without kept keys, AddNorm, Norm, GateHalves and CrossEntropy pass back the
// gradient of what goes through them, in the type that it has, and Adapted that of its LoRAs. Weights are frozen: to ask for
// their gradient is an error, as for ops that have none.

// LoRA is what is added to a layer: Scale * (x A) B, with A [in, rank] and B [rank, out] in float32. Without A it is nothing.
type LoRA struct {
	A, B  *Array
	Scale float32
}

// Adapted is Apply, wide, with what loras, one for each layer, add to the layers.
func (s *Scope) Adapted(x *Array, many bool, layers []Layer, loras []LoRA) *Array {
	const op = "adapted"
	if !s.ready(op, x) {
		return s.none()
	}
	parts, added := make([]C.gomlx_linear, len(layers)), make([]C.gomlx_lora, len(layers))
	for i, l := range layers {
		var ok bool
		if parts[i], ok = s.layer(op, l); !ok {
			return s.none()
		}
		if loras[i].A == nil {
			continue
		}
		if !s.ready(op, loras[i].A, loras[i].B) {
			return s.none()
		}
		added[i] = C.gomlx_lora{a: loras[i].A.h, b: loras[i].B.h, scale: C.float(loras[i].Scale)}
	}
	r := s.fresh()
	return s.done(op, r, C.gomlx_apply(&r.h, x.h, unsafe.SliceData(parts), unsafe.SliceData(added), C.int(len(parts)), C.int(NoGate), 1, flag(many), s.stream))
}

// CrossEntropy is that of the outputs of a layer for x [rows, in] with target ids, int32 [rows], which must be outputs of the layer:
// float32 [rows]. Logits are computed piece by piece. differentiable says that its gradient will be asked for.
func (s *Scope) CrossEntropy(x *Array, l Layer, targets *Array, differentiable bool) *Array {
	const op = "cross_entropy"
	if !s.ready(op, x, targets) {
		return s.none()
	}
	layer, ok := s.layer(op, l)
	if !ok {
		return s.none()
	}
	r := s.fresh()
	if !differentiable {
		return s.done(op, r, C.gomlx_cross_entropy(&r.h, nil, x.h, &layer, targets.h, s.stream))
	}
	var slopes C.mlx_array
	s.done(op, r, C.gomlx_cross_entropy(&r.h, &slopes, x.h, &layer, targets.h, s.stream))
	s.adopt(op, slopes) // the op keeps what its gradient needs
	return r
}
