package gguf

import (
	"encoding/binary"
	"math"
)

// MLX's affine format keeps groups of 32 values as scale*q + bias, q in 4, 5 or 8 bits, with float16 scales and biases. The
// types below are that exactly: no value changes.
var affine = map[Type]struct {
	bits int
	pack func(block []byte, q []byte) (scale, bias uint16)
}{
	Q4_0: {4, packQ4_0}, Q4_1: {4, packQ4_1}, Q5_0: {5, packQ5_0}, Q5_1: {5, packQ5_1}, Q8_0: {8, packQ8_0},
}

// packedGroup is the size of a group.
const packedGroup = 32

func bits16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }

// shifted is -d*2^n in float16, which is exact unless it overflows: then ok is false.
func shifted(d uint16, n int) (bias uint16, ok bool) {
	v := -float16(d) * float32(int(1)<<n)
	bias = toFloat16(v)
	return bias, float16(bias) == v
}

func packQ4_0(b, q []byte) (scale, bias uint16) {
	for i, x := range b[2:18] {
		q[i], q[i+16] = x&15, x>>4
	}
	bias, _ = shifted(bits16(b), 3)
	return bits16(b), bias
}

func packQ4_1(b, q []byte) (scale, bias uint16) {
	for i, x := range b[4:20] {
		q[i], q[i+16] = x&15, x>>4
	}
	return bits16(b), bits16(b[2:])
}

func packQ5_0(b, q []byte) (scale, bias uint16) {
	high := binary.LittleEndian.Uint32(b[2:])
	for i, x := range b[6:22] {
		q[i], q[i+16] = fifthBits(high, x, i)
	}
	bias, _ = shifted(bits16(b), 4)
	return bits16(b), bias
}

func packQ5_1(b, q []byte) (scale, bias uint16) {
	high := binary.LittleEndian.Uint32(b[4:])
	for i, x := range b[8:24] {
		q[i], q[i+16] = fifthBits(high, x, i)
	}
	return bits16(b), bits16(b[2:])
}

func packQ8_0(b, q []byte) (scale, bias uint16) {
	for i, x := range b[2:34] {
		q[i] = x ^ 0x80 // int8 + 128
	}
	bias, _ = shifted(bits16(b), 7)
	return bits16(b), bias
}

// putBits writes 32 values of so many bits each, the first in the lowest bits.
func putBits(out, q []byte, bits int) {
	var word uint64
	filled, at := 0, 0
	for _, v := range q {
		word |= uint64(v) << filled
		for filled += bits; filled >= 8; filled -= 8 {
			out[at] = byte(word)
			word >>= 8
			at++
		}
	}
}

// toFloat16 rounds to nearest, ties to even.
func toFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	sign, e, m := uint16(b>>16&0x8000), int(b>>23&0xff)-112, b&0x7fffff
	switch {
	case b&0x7fffffff > 0x7f800000:
		return sign | 0x7e00
	case e >= 31:
		return sign | 0x7c00
	case e <= 0:
		if e < -10 {
			return sign
		}
		m |= 0x800000
		shift := uint(14 - e)
		v := m >> shift
		if rest, mid := m&(1<<shift-1), uint32(1)<<(shift-1); rest > mid || rest == mid && v&1 == 1 {
			v++
		}
		return sign | uint16(v)
	}
	v := uint32(e)<<10 | m>>13
	if rest := m & 0x1fff; rest > 0x1000 || rest == 0x1000 && v&1 == 1 {
		v++ // may carry into the exponent, up to infinity
	}
	return sign | uint16(v)
}

// toBFloat16 rounds to nearest, ties to even.
func toBFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	if f != f {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
