package gguf

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// randomBlocks is blocks of random bytes; the scales of most of them are ordinary numbers.
func randomBlocks(kind Type, n int) []byte {
	random := rand.New(rand.NewPCG(uint64(kind), 1))
	data := make([]byte, n*layouts[kind].bytes)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}

// unpackAll is the values of blocks.
func unpackAll(kind Type, data []byte) []float32 {
	l, unpack := layouts[kind], unpackerOf(kind)
	out := make([]float32, len(data)/l.bytes*l.values)
	for i := range len(data) / l.bytes {
		unpack(data[i*l.bytes:(i+1)*l.bytes], out[i*l.values:(i+1)*l.values])
	}
	return out
}

func TestEveryTypeHasTheValuesOfThePythonPackage(t *testing.T) {
	blocks, want := map[string]string{}, map[string]string{}
	for kind, l := range layouts {
		if unpackerOf(kind) != nil {
			blocks[l.name] = hex.EncodeToString(randomBlocks(kind, 400))
		}
	}
	require.Len(t, blocks, 15)
	testenv.RunPython(t, "gguf_values.py", blocks, &want)
	for kind, l := range layouts {
		if unpackerOf(kind) == nil {
			continue
		}
		data, err := hex.DecodeString(want[l.name])
		require.NoError(t, err)
		got := unpackAll(kind, randomBlocks(kind, 400))
		require.Len(t, got, len(data)/4, l.name)
		for i, v := range got {
			bits := binary.LittleEndian.Uint32(data[4*i:])
			if w := math.Float32frombits(bits); w != w {
				require.True(t, v != v, "%s value %d", l.name, i)
				continue
			}
			require.Equal(t, bits, math.Float32bits(v), "%s value %d: %v", l.name, i, v)
		}
	}
}

// What is packed means the same values, in exact arithmetic that is rounded once, as the kernels do.
func TestPackedBlocksHaveTheValuesOfTheFile(t *testing.T) {
	for kind, f := range forms {
		l := layouts[kind]
		data := randomBlocks(kind, 300)
		var q [256]byte
		var scale, bias [16]float32
		for i := range 300 {
			block := data[i*l.bytes : (i+1)*l.bytes]
			for _, at := range map[Type][]int{Q4_1: {0, 2}, Q5_1: {0, 2}, Q2K: {80, 82}, Q3K: {108}, Q4K: {0, 2}, Q5K: {0, 2}, Q6K: {208}}[kind] {
				block[at+1] &= 0xbf // no infinities
			}
			block[1] &= 0xbf
			want := unpackAll(kind, block)
			f.quants(block, q[:])
			f.scales(block, scale[:], bias[:])
			packed := make([]byte, l.values*f.bits/8)
			putBits(packed, q[:l.values], f.bits)
			for j := range l.values {
				at := j * f.bits
				word := uint32(packed[at/8]) >> (at % 8)
				if at%8+f.bits > 8 {
					word |= uint32(packed[at/8+1]) << (8 - at%8)
				}
				g := j / f.group
				b := bias[g]
				if f.centred {
					b = -f.middle() * scale[g]
				}
				value := float64(scale[g])*float64(word&(1<<f.bits-1)) + float64(b)
				require.Equal(t, want[j], float32(value)+0, "%v value %d", kind, j)
				if !f.wide {
					require.Equal(t, scale[g], float16(toFloat16(scale[g])), "%v", kind)
				}
			}
		}
	}
}

func TestHalfPrecisionGoesThereAndBack(t *testing.T) {
	for h := range 1 << 16 {
		v := float16(uint16(h))
		if v != v {
			require.Equal(t, uint16(0x7c00), toFloat16(v)&0x7c00)
			continue
		}
		require.Equal(t, uint16(h), toFloat16(v))
	}
	require.Equal(t, uint16(0x7c00), toFloat16(70000))
	require.Equal(t, toFloat16(1), toFloat16(1+1.0/2048), "ties to even")
	require.Equal(t, toFloat16(1+2.0/1024), toFloat16(1+3.0/2048))
	require.Equal(t, uint16(1), toFloat16(1.0/(1<<24)))
	require.Equal(t, uint16(0), toFloat16(1.0/(1<<26)))
}
