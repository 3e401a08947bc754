package gguf

import (
	"encoding/binary"
	"math"
)

// The block formats of ggml (ggml-quants.c): each function makes the values of one block. Products are rounded to float32 one
// by one, as ggml and the Python package gguf do, so that the values are theirs to the bit. Slices become arrays first, so that no
// index has to be checked: these loops are most of the time that loading takes.

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
	d, qs, v := half(b), (*[16]byte)(b[2:]), (*[32]float32)(out)
	for i, q := range qs {
		v[i], v[i+16] = d*float32(int32(q&15)-8), d*float32(int32(q>>4)-8)
	}
}

func unpackQ4_1(b []byte, out []float32) {
	d, m, qs, v := half(b), half(b[2:]), (*[16]byte)(b[4:]), (*[32]float32)(out)
	for i, q := range qs {
		v[i], v[i+16] = float32(d*float32(int32(q&15)))+m, float32(d*float32(int32(q>>4)))+m
	}
}

// fifthBits adds the fifth bits, which stand apart, to the j-th pair of nibbles.
func fifthBits(high uint32, q byte, j int) (low, up byte) {
	return q&15 | byte(high>>j&1)<<4, q>>4 | byte(high>>(j+16)&1)<<4
}

func unpackQ5_0(b []byte, out []float32) {
	d, high, qs, v := half(b), binary.LittleEndian.Uint32(b[2:]), (*[16]byte)(b[6:]), (*[32]float32)(out)
	for i, q := range qs {
		low, up := fifthBits(high, q, i)
		v[i], v[i+16] = d*float32(int32(low)-16), d*float32(int32(up)-16)
	}
}

func unpackQ5_1(b []byte, out []float32) {
	d, m, high, qs, v := half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:]), (*[16]byte)(b[8:]), (*[32]float32)(out)
	for i, q := range qs {
		low, up := fifthBits(high, q, i)
		v[i], v[i+16] = float32(d*float32(int32(low)))+m, float32(d*float32(int32(up)))+m
	}
}

func unpackQ8_0(b []byte, out []float32) {
	d, qs, v := half(b), (*[32]byte)(b[2:]), (*[32]float32)(out)
	for i, q := range qs {
		v[i] = d * float32(int32(int8(q)))
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
	d, least, packed := half(b), half(b[2:]), b[4:16]
	for i := range 4 { // two groups of 32 values share their bytes
		lowScale, lowMin := scaleMin(packed, 2*i)
		highScale, highMin := scaleMin(packed, 2*i+1)
		d1, m1, d2, m2 := d*float32(lowScale), least*float32(lowMin), d*float32(highScale), least*float32(highMin)
		qs, v := (*[32]byte)(b[16+32*i:]), (*[64]float32)(out[64*i:])
		for j, q := range qs {
			v[j] = float32(d1*float32(int32(q&15))) - m1
			v[j+32] = float32(d2*float32(int32(q>>4))) - m2
		}
	}
}

func unpackQ5K(b []byte, out []float32) {
	d, least, packed, high := half(b), half(b[2:]), b[4:16], (*[32]byte)(b[16:])
	for i := range 4 {
		lowScale, lowMin := scaleMin(packed, 2*i)
		highScale, highMin := scaleMin(packed, 2*i+1)
		d1, m1, d2, m2 := d*float32(lowScale), least*float32(lowMin), d*float32(highScale), least*float32(highMin)
		qs, v := (*[32]byte)(b[48+32*i:]), (*[64]float32)(out[64*i:])
		for j, q := range qs {
			fifth := high[j] >> (2 * i)
			v[j] = float32(d1*float32(int32(q&15|fifth&1<<4))) - m1
			v[j+32] = float32(d2*float32(int32(q>>4|fifth>>1&1<<4))) - m2
		}
	}
}

func unpackQ6K(b []byte, out []float32) {
	d := half(b[208:])
	for i := range 2 { // halves of 128 values: four rows of 32
		low, high, v := (*[64]byte)(b[64*i:]), (*[32]byte)(b[128+32*i:]), (*[128]float32)(out[128*i:])
		var scale [8]float32 // of 16 values
		for j, s := range (*[8]byte)(b[192+8*i:]) {
			scale[j] = d * float32(int8(s))
		}
		for j, h := range high {
			at, l1, l2 := j>>4, low[j], low[j+32]
			v[j] = scale[at] * float32(int32(l1&15|h&3<<4)-32)
			v[j+32] = scale[at+2] * float32(int32(l2&15|h>>2&3<<4)-32)
			v[j+64] = scale[at+4] * float32(int32(l1>>4|h>>4&3<<4)-32)
			v[j+96] = scale[at+6] * float32(int32(l2>>4|h>>6<<4)-32)
		}
	}
}

// steps are the values of the non-linear 4-bit formats.
var steps = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func unpackIQ4NL(b []byte, out []float32) {
	d, qs, v := half(b), (*[16]byte)(b[2:]), (*[32]float32)(out)
	for i, q := range qs {
		v[i], v[i+16] = d*steps[q&15], d*steps[q>>4]
	}
}

// scaleIQ4XS is the scale of the i-th 32 values.
func scaleIQ4XS(b []byte, i int) float32 {
	high, low := binary.LittleEndian.Uint16(b[2:]), b[4:8]
	scale := int(low[i/2]>>(i%2*4)&15) | int(high>>(2*i)&3)<<4
	return half(b) * float32(scale-32)
}

func unpackIQ4XS(b []byte, out []float32) {
	qs := b[8:136]
	for i := range 8 {
		d := scaleIQ4XS(b, i)
		for j, q := range qs[16*i:][:16] {
			out[32*i+j], out[32*i+j+16] = d*steps[q&15], d*steps[q>>4]
		}
	}
}
