package gguf

import (
	"encoding/binary"
	"math"
)

// The block formats of ggml (ggml-quants.c). Quantised ones are forms (pack.go): whole numbers, and scales and biases of groups. Products are
// rounded to float32 one by one, as ggml and the Python package gguf do, so that the values are theirs to the bit.

// unpackerOf returns what makes the values of a block of a type, one block after the other; nil for types that are known by their size only.
func unpackerOf(t Type) func(block []byte, out []float32) {
	f, quantised := forms[t]
	if !quantised {
		return layouts[t].unpack
	}
	var q [256]byte // of the block under way; here, so that a block allocates nothing
	var scale, bias [16]float32
	return func(block []byte, out []float32) {
		f.quants(block, q[:])
		f.scales(block, scale[:], bias[:])
		f.values(q[:len(out)], scale[:], bias[:], out)
	}
}

// values are scale*q + bias for each group, or scale*(q - middle) of a centred form.
func (f form) values(q []byte, scale, bias, out []float32) {
	for g := 0; len(q) > 0; g++ {
		s, b := scale[g], bias[g]
		if f.centred {
			middle := f.middle()
			for i, x := range q[:f.group] {
				out[i] = s * (float32(x) - middle)
			}
		} else {
			for i, x := range q[:f.group] {
				out[i] = float32(s*float32(x)) + b
			}
		}
		q, out = q[f.group:], out[f.group:]
	}
}

func half(b []byte) float32 { return float16(binary.LittleEndian.Uint16(b)) }

// float16 is the value of a half-precision number.
func float16(h uint16) float32 {
	sign, exponent, fraction := uint32(h&0x8000)<<16, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exponent {
	case 0:
		v := float32(fraction) / (1 << 24) // exact: zero or subnormal
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}

func unpackF32(b []byte, out []float32) {
	out[0] = math.Float32frombits(binary.LittleEndian.Uint32(b))
}

func unpackF16(b []byte, out []float32) { out[0] = half(b) }

func unpackBF16(b []byte, out []float32) {
	out[0] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
}

// scaleMin reads the i-th of eight 6-bit scales and minima.
func scaleMin(packed []byte, i int) (scale, m byte) {
	if i < 4 {
		return packed[i] & 63, packed[i+4] & 63
	}
	return packed[i+4]&15 | packed[i-4]>>6<<4, packed[i+4]>>4 | packed[i]>>6<<4
}

// steps are the values of the non-linear 4-bit formats.
var steps = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// scaleIQ4XS is the scale of the i-th 32 values.
func scaleIQ4XS(b []byte, i int) float32 {
	high, low := binary.LittleEndian.Uint16(b[2:]), b[4:8]
	scale := int(low[i/2]>>(i%2*4)&15) | int(high>>(2*i)&3)<<4
	return half(b) * float32(scale-32)
}
