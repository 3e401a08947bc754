package gguf

import (
	"encoding/binary"
	"math"
)

// Packing is how the matrices of a file are held.
type Packing int

const (
	// Plain is as numbers of 16 or 32 bits.
	Plain Packing = iota
	// Affine is as MLX's affine format, if every matrix of the file is that exactly, with float16 scales; otherwise plain.
	Affine
	// ForKernels is packed whatever the CPU kernels can compute with, matrix by matrix: groups of 16 too, scales in float32 where
	// float16 would round them, and no biases where weights lie around zero.
	ForKernels
)

// form is a type as groups of scale*q + bias, exactly: no value changes.
type form struct {
	bits, group int
	centred     bool // bias is always -2^(bits-1) * scale
	wide        bool // scales need float32
	first       bool // there is one scale, the block's first two bytes
	quants      func(block, q []byte)
	packed      func(block, out []byte)                   // quants and putBits in one, where that is quicker; may be nil
	scales      func(block []byte, scale, bias []float32) // of each group; bias is left alone if centred
}

var forms = map[Type]form{
	Q4_0: {bits: 4, group: 32, centred: true, first: true, quants: nibbles(2), packed: packedQ4_0, scales: scaleFirst},
	Q4_1: {bits: 4, group: 32, quants: nibbles(4), packed: packedQ4_1, scales: scaleAndBias},
	Q5_0: {bits: 5, group: 32, centred: true, first: true, quants: fiveBits(2), scales: scaleFirst},
	Q5_1: {bits: 5, group: 32, quants: fiveBits(4), scales: scaleAndBias},
	Q8_0: {bits: 8, group: 32, centred: true, first: true, quants: quantsQ8_0, scales: scaleFirst},
	Q2K:  {bits: 2, group: 16, wide: true, quants: quantsQ2K, scales: scalesQ2K},
	Q3K:  {bits: 3, group: 16, centred: true, wide: true, quants: quantsQ3K, scales: scalesQ3K},
	Q4K:  {bits: 4, group: 32, wide: true, quants: quantsQ4K, packed: packedQ4K, scales: scalesQ4K},
	Q5K:  {bits: 5, group: 32, wide: true, quants: quantsQ5K, scales: scalesQ4K},
	Q6K:  {bits: 6, group: 16, centred: true, wide: true, quants: quantsQ6K, scales: scalesQ6K},
	// The sixteen steps of these are whole numbers of eight bits.
	IQ4NL: {bits: 8, group: 32, centred: true, first: true, quants: quantsIQ4NL, scales: scaleFirst},
	IQ4XS: {bits: 8, group: 32, centred: true, wide: true, quants: quantsIQ4XS, scales: scalesIQ4XS},
}

// affine reports whether MLX's format is the form exactly.
func (f form) affine() bool { return f.group == 32 && !f.wide }

// scaleType is the type of scales and biases, by safetensors' name.
func (f form) scaleType() string {
	if f.wide {
		return "F32"
	}
	return "F16"
}

// middle is the value in q of zero in a centred form.
func (f form) middle() float32 { return float32(int(1) << (f.bits - 1)) }

func scaleFirst(b []byte, scale, _ []float32) { scale[0] = half(b) }

func scaleAndBias(b []byte, scale, bias []float32) { scale[0], bias[0] = half(b), half(b[2:]) }

// Eight bytes at a time: values of four bits in the low halves of eight bytes and in the high ones, the lowest two bits of each, and the highest one.
const (
	lowHalves = 0x0f0f0f0f0f0f0f0f
	lowPairs  = 0x0303030303030303
	lowBits   = 0x0101010101010101
	signs     = 0x8080808080808080
)

func eight(b []byte) uint64       { return binary.LittleEndian.Uint64(b) }
func putEight(q []byte, v uint64) { binary.LittleEndian.PutUint64(q, v) }

// fifths are eight bits as the fifth bits of eight bytes.
var fifths = func() (table [256]uint64) {
	for bits := range table {
		for i := range 8 {
			table[bits] |= uint64(bits>>i&1) << (8*i + 4)
		}
	}
	return table
}()

// nibbles reads 16 bytes from a place on: the first sixteen values are their low halves.
func nibbles(from int) func(b, q []byte) {
	return func(b, q []byte) {
		for i := 0; i < 16; i += 8 {
			x := eight(b[from+i:])
			putEight(q[i:], x&lowHalves)
			putEight(q[i+16:], x>>4&lowHalves)
		}
	}
}

func fiveBits(from int) func(b, q []byte) {
	return func(b, q []byte) {
		high := b[from : from+4]
		for i := 0; i < 16; i += 8 {
			x := eight(b[from+4+i:])
			putEight(q[i:], x&lowHalves|fifths[high[i/8]])
			putEight(q[i+16:], x>>4&lowHalves|fifths[high[2+i/8]])
		}
	}
}

func quantsQ8_0(b, q []byte) {
	for i := 0; i < 32; i += 8 {
		putEight(q[i:], eight(b[2+i:])^signs) // int8 + 128
	}
}

func quantsQ2K(b, q []byte) {
	qs := b[16:80]
	for i := range 16 { // groups of 16 values
		from, shift := qs[i/8*32+i%2*16:], i%8/2*2
		putEight(q[16*i:], eight(from)>>shift&lowPairs)
		putEight(q[16*i+8:], eight(from[8:])>>shift&lowPairs)
	}
}

func scalesQ2K(b []byte, scale, bias []float32) {
	d, least := half(b[80:]), half(b[82:])
	for i, s := range b[:16] {
		scale[i], bias[i] = d*float32(s&15), -(least * float32(s>>4))
	}
}

func quantsQ3K(b, q []byte) {
	mask, qs := b[:32], b[32:96]
	for i := range 16 {
		from, masks, shift := qs[i/8*32+i%2*16:], mask[i%2*16:], i%8/2*2
		for j := 0; j < 16; j += 8 {
			putEight(q[16*i+j:], eight(from[j:])>>shift&lowPairs|eight(masks[j:])>>(i/2)&lowBits<<2)
		}
	}
}

func scalesQ3K(b []byte, scale, _ []float32) {
	packed, d := b[96:108], half(b[108:])
	for i := range 16 {
		low, high := packed[i%8]>>(i/8*4)&15, packed[8+i%4]>>(i/4*2)&3
		scale[i] = d * float32(int(low|high<<4)-32)
	}
}

func quantsQ4K(b, q []byte) {
	for i := range 4 { // two groups of 32 values share their bytes
		for j := 0; j < 32; j += 8 {
			x := eight(b[16+32*i+j:])
			putEight(q[64*i+j:], x&lowHalves)
			putEight(q[64*i+j+32:], x>>4&lowHalves)
		}
	}
}

func scalesQ4K(b []byte, scale, bias []float32) {
	d, least, packed := half(b), half(b[2:]), b[4:16]
	for i := range 8 {
		s, m := scaleMin(packed, i)
		scale[i], bias[i] = d*float32(s), -(least * float32(m))
	}
}

func quantsQ5K(b, q []byte) {
	const fifth = 0x1010101010101010
	for i := range 4 {
		for j := 0; j < 32; j += 8 {
			x, high := eight(b[48+32*i+j:]), eight(b[16+j:])>>(2*i)
			putEight(q[64*i+j:], x&lowHalves|high<<4&fifth)
			putEight(q[64*i+j+32:], x>>4&lowHalves|high<<3&fifth)
		}
	}
}

func quantsQ6K(b, q []byte) {
	for i := range 2 { // halves of 128 values: four rows of 32
		for j := 0; j < 32; j += 8 {
			l1, l2, h := eight(b[64*i+j:]), eight(b[64*i+j+32:]), eight(b[128+32*i+j:])
			to := q[128*i+j:]
			putEight(to, l1&lowHalves|h&lowPairs<<4)
			putEight(to[32:], l2&lowHalves|h>>2&lowPairs<<4)
			putEight(to[64:], l1>>4&lowHalves|h>>4&lowPairs<<4)
			putEight(to[96:], l2>>4&lowHalves|h>>6&lowPairs<<4)
		}
	}
}

func scalesQ6K(b []byte, scale, _ []float32) {
	d := half(b[208:])
	for i, s := range b[192:208] {
		scale[i] = d * float32(int8(s))
	}
}

func quantsIQ4NL(b, q []byte) {
	for i, x := range (*[16]byte)(b[2:]) {
		q[i], q[i+16] = byte(steps[x&15]+128), byte(steps[x>>4]+128)
	}
}

func quantsIQ4XS(b, q []byte) {
	for i := range 8 {
		to := (*[32]byte)(q[32*i:])
		for j, x := range (*[16]byte)(b[8+16*i:]) {
			to[j], to[j+16] = byte(steps[x&15]+128), byte(steps[x>>4]+128)
		}
	}
}

func scalesIQ4XS(b []byte, scale, _ []float32) {
	for i := range 8 {
		scale[i] = scaleIQ4XS(b, i)
	}
}

func packedQ4_0(b, out []byte) { packHalves(b[2:18], out) }

func packedQ4_1(b, out []byte) { packHalves(b[4:20], out) }

func packedQ4K(b, out []byte) {
	for i := range 4 {
		packHalves(b[16+32*i:48+32*i], out[32*i:32*i+32])
	}
}

// packHalves writes the low halves of bytes and then the high ones, two to a byte. Bytes are eight at a time.
func packHalves(b, out []byte) {
	low, high := out[:len(b)/2], out[len(b)/2:len(b)]
	for ; len(b) >= 8; b, low, high = b[8:], low[4:], high[4:] {
		x := eight(b)
		binary.LittleEndian.PutUint32(low, squeeze(x&lowHalves))
		binary.LittleEndian.PutUint32(high, squeeze(x>>4&lowHalves))
	}
}

// squeeze is the low halves of eight bytes side by side.
func squeeze(v uint64) uint32 {
	v = (v | v>>4) & 0x00ff00ff00ff00ff
	v = (v | v>>8) & 0x0000ffff0000ffff
	return uint32(v | v>>16)
}

// putBits writes values of so many bits each, the first in the lowest bits: eight values are a whole number of bytes.
func putBits(out, q []byte, bits int) {
	if bits == 8 {
		copy(out, q)
		return
	}
	for ; len(q) >= 8; out, q = out[bits:], q[8:] {
		v := eight(q) // the values move together, two by two, four by four, and all
		v = v&0x00ff00ff00ff00ff | v>>8&0x00ff00ff00ff00ff<<bits
		v = v&0x0000ffff0000ffff | v>>16&0x0000ffff0000ffff<<(2*bits)
		v = v&0xffffffff | v>>32<<(4*bits)
		if len(out) >= 8 {
			putEight(out, v)
			continue
		}
		for i := range out[:bits] {
			out[i] = byte(v >> (8 * i))
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
