package mlxc

/*
#include "glue.h"
*/
import "C"

import "fmt"

// Quantization is MLX's affine format: groups of GroupSize weights share a scale and a bias, and
// w = scale*q + bias with q of Bits bits, packed into uint32.
type Quantization struct {
	GroupSize int
	Bits      int
	// Interleaved says that rows are in the order in which the CPU kernels read them, see Scope.Interleave; only these can compute with them.
	Interleaved bool
}

func (q Quantization) args() (group, bits C.mlx_optional_int) {
	group.value, group.has_value = C.int(q.GroupSize), true
	bits.value, bits.has_value = C.int(q.Bits), true
	return group, bits
}

// QuantizedMatmul is x w^T for a quantised w [out, in]; x is [..., in].
func (s *Scope) QuantizedMatmul(x, w, scales, biases *Array, q Quantization) *Array {
	return s.quantizedMatmul(x, w, scales, biases, true, q)
}

// QuantizedProduct is x w for a quantised w [in, out], packed along out; x is [..., in].
func (s *Scope) QuantizedProduct(x, w, scales, biases *Array, q Quantization) *Array {
	return s.quantizedMatmul(x, w, scales, biases, false, q)
}

func (s *Scope) quantizedMatmul(x, w, scales, biases *Array, transpose bool, q Quantization) *Array {
	const op = "quantized_matmul"
	if !s.ready(op, x, w, scales, biases) {
		return s.none()
	}
	group, bits := q.args()
	r := s.fresh()
	return s.done(op, r, C.mlx_quantized_matmul(&r.h, x.h, w.h, scales.h, biases.h, C.bool(transpose), group, bits, C.gomlx_affine, s.stream))
}

// Quantize packs w [..., in] and returns the packed weights, scales and biases.
func (s *Scope) Quantize(w *Array, q Quantization) (packed, scales, biases *Array) {
	const op = "quantize"
	if !s.ready(op, w) {
		return s.none(), s.none(), s.none()
	}
	group, bits := q.args()
	out := C.mlx_vector_array_new()
	defer func() { C.mlx_vector_array_free(out) }()
	var global C.mlx_array
	if rc := C.mlx_quantize(&out, w.h, group, bits, C.gomlx_affine, global, s.stream); rc != 0 {
		s.err = lastError(op)
		return s.none(), s.none(), s.none()
	}
	parts := s.unpack(op, out)
	if s.err == nil && len(parts) != 3 {
		s.err = fmt.Errorf("mlx: %s: %d results, want 3", op, len(parts))
	}
	if s.err != nil {
		return s.none(), s.none(), s.none()
	}
	return parts[0], parts[1], parts[2]
}

// Dequantize undoes Quantize, in the type of the scales.
func (s *Scope) Dequantize(packed, scales, biases *Array, q Quantization) *Array {
	const op = "dequantize"
	if !s.ready(op, packed, scales, biases) {
		return s.none()
	}
	group, bits := q.args()
	var global C.mlx_array
	var dtype C.mlx_optional_dtype
	r := s.fresh()
	return s.done(op, r, C.mlx_dequantize(&r.h, packed.h, scales.h, biases.h, group, bits, C.gomlx_affine, global, dtype, s.stream))
}

// unpack makes the elements of a C vector arrays of the scope.
func (s *Scope) unpack(op string, v C.mlx_vector_array) []*Array {
	n := int(C.mlx_vector_array_size(v))
	out := make([]*Array, n)
	for i := range out {
		if s.err != nil {
			out[i] = s.none()
			continue
		}
		a := s.fresh()
		out[i] = s.done(op, a, C.mlx_vector_array_get(&a.h, v, C.size_t(i)))
	}
	return out
}
