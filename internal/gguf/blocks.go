package gguf

import (
	"encoding/binary"
	"math"
)

// The block formats of ggml (ggml-quants.c): each function makes the values of one block. Products are rounded to float32 one
// by one, as ggml and the Python package gguf do, so that the values are theirs to the bit.

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

func unpackQ4_0(b []byte, out []float32) {
	d := half(b)
	for i, q := range b[2:18] {
		out[i], out[i+16] = d*float32(int(q&15)-8), d*float32(int(q>>4)-8)
	}
}

func unpackQ4_1(b []byte, out []float32) {
	d, m := half(b), half(b[2:])
	for i, q := range b[4:20] {
		out[i], out[i+16] = float32(d*float32(q&15))+m, float32(d*float32(q>>4))+m
	}
}

// fifthBits adds the fifth bits, which stand apart, to the j-th pair of nibbles.
func fifthBits(high uint32, q byte, j int) (low, up byte) {
	return q&15 | byte(high>>j&1)<<4, q>>4 | byte(high>>(j+16)&1)<<4
}

func unpackQ5_0(b []byte, out []float32) {
	d, high := half(b), binary.LittleEndian.Uint32(b[2:])
	for i, q := range b[6:22] {
		low, up := fifthBits(high, q, i)
		out[i], out[i+16] = d*float32(int(low)-16), d*float32(int(up)-16)
	}
}

func unpackQ5_1(b []byte, out []float32) {
	d, m, high := half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:])
	for i, q := range b[8:24] {
		low, up := fifthBits(high, q, i)
		out[i], out[i+16] = float32(d*float32(low))+m, float32(d*float32(up))+m
	}
}

func unpackQ8_0(b []byte, out []float32) {
	d := half(b)
	for i, q := range b[2:34] {
		out[i] = d * float32(int8(q))
	}
}

func unpackQ2K(b []byte, out []float32) {
	scales, qs, d, least := b[:16], b[16:80], half(b[80:]), half(b[82:])
	for i := range 16 { // groups of 16 values
		scale, m := d*float32(scales[i]&15), least*float32(scales[i]>>4)
		from, shift := qs[i/8*32+i%2*16:], i%8/2*2
		for j := range 16 {
			out[16*i+j] = float32(scale*float32(from[j]>>shift&3)) - m
		}
	}
}

func unpackQ3K(b []byte, out []float32) {
	mask, qs, packed, d := b[:32], b[32:96], b[96:108], half(b[108:])
	for i := range 16 {
		low, high := packed[i%8]>>(i/8*4)&15, packed[8+i%4]>>(i/4*2)&3
		scale := d * float32(int(low|high<<4)-32)
		from, masks, shift := qs[i/8*32+i%2*16:], mask[i%2*16:], i%8/2*2
		for j := range 16 {
			q := int(from[j] >> shift & 3)
			if masks[j]>>(i/2)&1 == 0 {
				q -= 4
			}
			out[16*i+j] = scale * float32(q)
		}
	}
}

// scaleMin reads the i-th of eight 6-bit scales and minima.
func scaleMin(packed []byte, i int) (scale, m byte) {
	if i < 4 {
		return packed[i] & 63, packed[i+4] & 63
	}
	return packed[i+4]&15 | packed[i-4]>>6<<4, packed[i+4]>>4 | packed[i]>>6<<4
}

func unpackQ4K(b []byte, out []float32) {
	d, least, packed, qs := half(b), half(b[2:]), b[4:16], b[16:144]
	for i := range 8 { // groups of 32 values
		scale, m := scaleMin(packed, i)
		d, m32, shift := d*float32(scale), least*float32(m), i%2*4
		for j, q := range qs[i/2*32:][:32] {
			out[32*i+j] = float32(d*float32(q>>shift&15)) - m32
		}
	}
}

func unpackQ5K(b []byte, out []float32) {
	d, least, packed, high, qs := half(b), half(b[2:]), b[4:16], b[16:48], b[48:176]
	for i := range 8 {
		scale, m := scaleMin(packed, i)
		d, m32, shift := d*float32(scale), least*float32(m), i%2*4
		for j, q := range qs[i/2*32:][:32] {
			out[32*i+j] = float32(d*float32(q>>shift&15|high[j]>>i&1<<4)) - m32
		}
	}
}

func unpackQ6K(b []byte, out []float32) {
	low, high, scales, d := b[:128], b[128:192], b[192:208], half(b[208:])
	for i := range 256 {
		half, row, column := i/128, i%128/32, i%32
		q := low[half*64+row%2*32+column]>>(row/2*4)&15 | high[half*32+column]>>(row*2)&3<<4
		out[i] = float32(d*float32(int8(scales[i/16]))) * float32(int(q)-32)
	}
}

// steps are the values of the non-linear 4-bit formats.
var steps = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func unpackIQ4NL(b []byte, out []float32) {
	d := half(b)
	for i, q := range b[2:18] {
		out[i], out[i+16] = d*steps[q&15], d*steps[q>>4]
	}
}

func unpackIQ4XS(b []byte, out []float32) {
	d, high, low, qs := half(b), binary.LittleEndian.Uint16(b[2:]), b[4:8], b[8:136]
	for i := range 8 {
		scale := int(low[i/2]>>(i%2*4)&15) | int(high>>(2*i)&3)<<4
		d := d * float32(scale-32)
		for j, q := range qs[16*i:][:16] {
			out[32*i+j], out[32*i+j+16] = d*steps[q&15], d*steps[q>>4]
		}
	}
}
