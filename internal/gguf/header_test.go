package gguf

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// entry is a tensor of a file that a test writes; its axes are in GGUF's order, innermost first.
type entry struct {
	name string
	kind Type
	dims []uint64
	data []byte
}

// build writes a GGUF file of any metadata.
func build(t testing.TB, metadata map[string]any, tensors ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	str := func(s string) {
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		b.WriteString(s)
	}
	put := func(v any) { require.NoError(t, binary.Write(&b, binary.LittleEndian, v)) }
	put([]uint32{0x46554747, 3})
	put([]uint64{uint64(len(tensors)), uint64(len(metadata))})
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		str(key)
		switch v := metadata[key].(type) {
		case string:
			put(uint32(typeString))
			str(v)
		case int:
			put([]uint32{4, uint32(v)})
		case bool:
			put(uint32(7))
			put(v)
		case float32:
			put(uint32(6))
			put(v)
		case float64:
			put(uint32(12))
			put(v)
		case []string:
			put([]uint32{typeArray, typeString})
			put(uint64(len(v)))
			for _, s := range v {
				str(s)
			}
		case []int32:
			put([]uint32{typeArray, 5})
			put(uint64(len(v)))
			put(v)
		case []float32:
			put([]uint32{typeArray, 6})
			put(uint64(len(v)))
			put(v)
		case []bool:
			put([]uint32{typeArray, 7})
			put(uint64(len(v)))
			put(v)
		default:
			t.Fatalf("%T", v)
		}
	}
	align, ok := metadata["general.alignment"].(int)
	if !ok {
		align = alignment
	}
	var data bytes.Buffer
	pad := func(b *bytes.Buffer) { b.Write(make([]byte, (align-b.Len()%align)%align)) }
	for _, e := range tensors {
		str(e.name)
		put(uint32(len(e.dims)))
		put(e.dims)
		put(uint32(e.kind))
		put(uint64(data.Len()))
		data.Write(e.data)
		pad(&data)
	}
	pad(&b)
	return append(b.Bytes(), data.Bytes()...)
}

// file has one metadata entry of every form and one tensor.
func file(t testing.TB, kind Type, dims []uint64, data int) []byte {
	return build(t, map[string]any{
		"general.architecture": "llama", "general.alignment": 64, "a.float": 1.0, "a.list": []int32{1, -2, 3}, "a.names": []string{"x", "yz"}, "a.flag": true,
	}, entry{"token_embd.weight", kind, dims, make([]byte, data)})
}

// moved is a file of which the last tensor begins at another byte of the data.
func moved(data []byte, to byte) []byte {
	at := bytes.LastIndex(data, append(binary.LittleEndian.AppendUint64(nil, 1), 'b'))
	if at < 0 {
		at = bytes.LastIndex(data, append(binary.LittleEndian.AppendUint64(nil, 1), 'a'))
	}
	data[at+9+4+8+4] = to // the name, how many axes, one axis, the type
	return data
}

func parse(data []byte) (*Header, error) { return Parse(bytes.NewReader(data), int64(len(data))) }

func TestWholeFilesAreRead(t *testing.T) {
	for kind, c := range map[Type]struct {
		dims []uint64
		data int
	}{F32: {[]uint64{8, 4}, 128}, Q8_0: {[]uint64{64, 2}, 4 * 34}, Q6K: {[]uint64{256}, 210}, IQ4XS: {[]uint64{256, 3}, 3 * 136}} {
		h, err := parse(file(t, kind, c.dims, c.data))
		require.NoError(t, err)
		require.Equal(t, "llama", h.Architecture())
		require.Equal(t, []int64{1, -2, 3}, h.Metadata["a.list"])
		require.Equal(t, []string{"x", "yz"}, h.Metadata["a.names"])
		require.Equal(t, true, h.Metadata["a.flag"])
		require.Equal(t, 1.0, h.Metadata["a.float"])
		require.EqualValues(t, c.data, h.Tensors[0].Bytes())
		require.Zero(t, h.Tensors[0].Offset%64)
	}
	h, err := parse(file(t, F32, []uint64{8, 4}, 128))
	require.NoError(t, err)
	require.Equal(t, []int{4, 8}, h.Tensors[0].Shape)
}

func TestEveryTruncationIsAnError(t *testing.T) {
	whole := file(t, F32, []uint64{8, 4}, 128)
	for n := range whole {
		_, err := parse(whole[:n])
		require.ErrorIs(t, err, ErrMalformed, "%d of %d bytes", n, len(whole))
		require.ErrorContains(t, err, "copy it again", "%d of %d bytes", n, len(whole))
	}
}

func TestErrorsNameWhatIsWrongWithAHeader(t *testing.T) {
	for want, data := range map[string][]byte{
		"begin with GGUF":  []byte("GGML    "),
		"too large":        file(t, F32, []uint64{1 << 30, 1 << 30, 1 << 30}, 32),
		"5 axes":           file(t, F32, []uint64{1, 1, 1, 1, 1}, 32),
		"blocks of 32":     file(t, Q8_0, []uint64{33}, 100),
		"rows of 16":       file(t, Q8_0, []uint64{16, 2}, 34),
		"it is truncated":  file(t, F16, []uint64{1 << 20}, 100),
		"bytes in a strin": append(file(t, F32, []uint64{8}, 0)[:24], 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0),
		"split.count":      build(t, map[string]any{"split.count": "2"}),
		"architecture":     build(t, map[string]any{"general.architecture": 7}),
		"big-endian":       append([]byte("GGUF\x00\x00\x00\x03"), make([]byte, 16)...),
		"version 1":        append([]byte("GGUF\x01\x00\x00\x00"), make([]byte, 16)...),
		"power of two":     build(t, map[string]any{"general.alignment": 24}),
		"is 2097152":       build(t, map[string]any{"general.alignment": 1 << 21}),
		"no multiple":      moved(build(t, nil, entry{"a", F32, []uint64{1}, make([]byte, 64)}), 1),
		"bytes in common":  moved(build(t, nil, entry{"a", F32, []uint64{8}, make([]byte, 64)}, entry{"b", F32, []uint64{8}, make([]byte, 32)}), 0),
		"two tensors":      build(t, nil, entry{"a", F32, []uint64{1}, make([]byte, 4)}, entry{"a", F32, []uint64{1}, make([]byte, 4)}),
	} {
		_, err := parse(data)
		require.ErrorContains(t, err, want)
		require.ErrorIs(t, err, ErrMalformed)
	}
}

// A count of billions must not be believed before the bytes are there.
func TestFalseCountsAllocateNoMemory(t *testing.T) {
	data := build(t, map[string]any{"a": []int32{1}})
	at := bytes.Index(data, []byte{9, 0, 0, 0, 5, 0, 0, 0}) + 8
	binary.LittleEndian.PutUint64(data[at:], 1<<40)
	_, err := parse(data)
	require.ErrorIs(t, err, ErrMalformed)
}

// The outline is the header without the tokenizer, whichever way it is read; and a file that is broken there is broken for both.
func TestTheOutlineIsTheHeaderWithoutTheTokenizer(t *testing.T) {
	metadata := tiny("qwen3")
	long := strings.Repeat("x", 5000)
	metadata["tokenizer.ggml.tokens"] = append(slices.Repeat([]string{"some token", "", "é"}, 30000), long, "after the long one")
	metadata["general.tags"] = []string{"kept", long, ""}
	data := build(t, metadata, entry{"token_embd.weight", F32, []uint64{4, 2}, floats(8)})
	path := write(t, "model.gguf", data)
	whole, err := ReadHeader(path)
	require.NoError(t, err)
	require.Equal(t, metadata["tokenizer.ggml.tokens"], whole.Metadata["tokenizer.ggml.tokens"])
	outline, err := ReadOutline(path)
	require.NoError(t, err)
	require.Equal(t, whole.Outline(), outline)
	require.Equal(t, metadata["general.tags"], outline.Metadata["general.tags"])
	require.NotContains(t, outline.Metadata, "tokenizer.ggml.model")
	for cut := 24; cut < len(data); cut += 1 + len(data)/300 {
		_, err := parseHeader(bytes.NewReader(data[:cut]), int64(cut), true)
		require.ErrorIs(t, err, ErrMalformed, "cut at %d", cut)
	}
}
