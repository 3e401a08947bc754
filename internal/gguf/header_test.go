package gguf

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// file writes a GGUF file with one metadata entry of every form and one tensor.
func file(t testing.TB, kind uint32, dims []uint64, data int) []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if s, ok := v.(string); ok {
				require.NoError(t, binary.Write(&b, binary.LittleEndian, uint64(len(s))))
				b.WriteString(s)
				continue
			}
			require.NoError(t, binary.Write(&b, binary.LittleEndian, v))
		}
	}
	put(uint32(0x46554747), uint32(3), uint64(1), uint64(5))
	put("general.architecture", uint32(8), "gemma3")
	put("general.alignment", uint32(4), uint32(64))
	put("a.float", uint32(12), float64(1))
	put("a.list", uint32(9), uint32(4), uint64(3), uint32(1), uint32(2), uint32(3))
	put("a.names", uint32(9), uint32(8), uint64(2), "x", "yz")
	put("token_embd.weight", uint32(len(dims)))
	for _, d := range dims {
		put(d)
	}
	put(kind, uint64(0))
	b.Write(make([]byte, (64-b.Len()%64)%64+data))
	return b.Bytes()
}

func check(data []byte) error { return Check(bytes.NewReader(data), int64(len(data))) }

func TestWholeFilesPass(t *testing.T) {
	require.NoError(t, check(file(t, 0, []uint64{8, 4}, 128)))
	require.NoError(t, check(file(t, 8, []uint64{64, 2}, 4*34)))
	require.NoError(t, check(file(t, 14, []uint64{256}, 210)))
}

func TestEveryCutIsNoticed(t *testing.T) {
	whole := file(t, 0, []uint64{8, 4}, 128)
	for n := range whole {
		require.ErrorIs(t, check(whole[:n]), ErrMalformed, "%d of %d bytes", n, len(whole))
	}
}

func TestNonsenseIsNamed(t *testing.T) {
	for want, data := range map[string][]byte{
		"begin with GGUF":  []byte("GGML    "),
		"unknown type 99":  file(t, 99, []uint64{8}, 32),
		"too large":        file(t, 0, []uint64{1 << 40, 1 << 40}, 32),
		"5 axes":           file(t, 0, []uint64{1, 1, 1, 1, 1}, 32),
		"blocks of 32":     file(t, 8, []uint64{33}, 100),
		"it is truncated":  file(t, 1, []uint64{1 << 20}, 100),
		"bytes in a strin": append(file(t, 0, []uint64{8}, 0)[:24], 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0),
	} {
		require.ErrorContains(t, check(data), want)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(file(f, 0, []uint64{8, 4}, 128))
	f.Add(file(f, 8, []uint64{64, 2}, 4*34))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := check(data); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}
