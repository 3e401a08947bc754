package mlxc

/*
#include "glue.h"
*/
import "C"

// RandomKey is the key of a seed: a uint32 array of two elements, as mx.random.key makes it.
func (s *Scope) RandomKey(seed uint64) *Array {
	if !s.ready("random key") {
		return s.none()
	}
	r := s.fresh()
	return s.done("random key", r, C.mlx_random_key(&r.h, C.uint64_t(seed)))
}

// RandomSplit makes two independent keys of one.
func (s *Scope) RandomSplit(key *Array) (first, second *Array) {
	if !s.ready("random split", key) {
		return s.none(), s.none()
	}
	first, second = s.fresh(), s.fresh()
	rc := C.mlx_random_split(&first.h, &second.h, key.h, s.stream)
	if rc == 0 {
		second = s.done("random split", second, rc)
	}
	return s.done("random split", first, rc), second
}

// Categorical draws one index along an axis with probability softmax(logits), as uint32.
func (s *Scope) Categorical(logits *Array, axis int, key *Array) *Array {
	if !s.ready("categorical", logits, key) {
		return s.none()
	}
	r := s.fresh()
	return s.done("categorical", r, C.mlx_random_categorical(&r.h, logits.h, C.int(axis), key.h, s.stream))
}

// Normal draws from a normal distribution of mean 0 and the given standard deviation.
func (s *Scope) Normal(dtype DType, scale float32, key *Array, shape ...int) *Array {
	if !s.ready("normal", key) {
		return s.none()
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	r := s.fresh()
	return s.done("normal", r, C.mlx_random_normal(&r.h, ptr, n, C.mlx_dtype(dtype), 0, C.float(scale), key.h, s.stream))
}

// Uniform draws float32 numbers from 0 up to, but not including, 1.
func (s *Scope) Uniform(key *Array, shape ...int) *Array {
	low, high := s.Scalar(0, Float32), s.Scalar(1, Float32)
	if !s.ready("uniform", key, low, high) {
		return s.none()
	}
	dims := ints(shape)
	ptr, n := intsPtr(dims)
	r := s.fresh()
	return s.done("uniform", r, C.mlx_random_uniform(&r.h, low.h, high.h, ptr, n, C.MLX_FLOAT32, key.h, s.stream))
}
