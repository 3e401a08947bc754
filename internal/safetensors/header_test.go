package safetensors

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func file(header string, data int) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), make([]byte, data)...)
}

func read(b []byte) (map[string]Tensor, error) {
	tensors, _, err := Read(bytes.NewReader(b), int64(len(b)))
	return tensors, err
}

func TestReadsAHeader(t *testing.T) {
	tensors, err := read(file(`{"__metadata__":{"format":"mlx"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"s":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}`, 16))
	require.NoError(t, err)
	require.Len(t, tensors, 2)
	require.Equal(t, Tensor{DType: "BF16", Shape: []int{2, 3}, Offset: [2]int64{0, 12}}, tensors["a"])
	require.EqualValues(t, 6, tensors["a"].Elements())
	require.EqualValues(t, 1, tensors["s"].Elements())
	require.EqualValues(t, 4, tensors["s"].Bytes())
}

func TestReadsTheProjectsModel(t *testing.T) {
	tensors, err := ReadFile(filepath.Join(testenv.Model(t), "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, []int{128}, tensors["model.norm.weight"].Shape)
}

func TestMalformedFilesAreRefused(t *testing.T) {
	entry := func(s string) []byte { return file(`{"a":`+s+`}`, 16) }
	for name, b := range map[string][]byte{
		"empty":              {},
		"seven bytes":        make([]byte, 7),
		"header beyond file": binary.LittleEndian.AppendUint64(nil, 50),
		"absurd header":      binary.LittleEndian.AppendUint64(nil, 1<<63),
		"no JSON":            file("{", 0),
		"a list":             file("[]", 0),
		"truncated data":     entry(`{"dtype":"F32","shape":[8],"data_offsets":[0,32]}`),
		"bytes of two":       file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[0],"data_offsets":[8,8]},"c":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, 16),
		"negative offset":    entry(`{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}`),
		"reversed offsets":   entry(`{"dtype":"F32","shape":[1],"data_offsets":[8,4]}`),
		"one offset":         entry(`{"dtype":"F32","shape":[1],"data_offsets":[4]}`),
		"wrong size":         entry(`{"dtype":"F32","shape":[3],"data_offsets":[0,16]}`),
		"negative axis":      entry(`{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}`),
		"overflowing shape":  entry(`{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}`),
		"unknown dtype":      entry(`{"dtype":"Q3","shape":[1],"data_offsets":[0,4]}`),
		"shape of strings":   entry(`{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}`),
		"entry is a number":  entry(`3`),
		"no shape":           entry(`{"dtype":"F32","data_offsets":[0,4]}`),
		"a key twice":        entry(`{"dtype":"F32","shape":[1],"data_offsets":[0,4],"shape":[1]}`),
		"a tensor twice":     file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"null":               file(`null`, 8),
	} {
		_, err := read(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// Keys in capitals are others, which are passed over.
func TestKeysAreTakenAsTheyAreWritten(t *testing.T) {
	tensors, err := read(file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"Shape":[2],"DTYPE":"U8","other":null}}`, 4))
	require.NoError(t, err)
	require.Equal(t, map[string]Tensor{"a": {DType: "F32", Shape: []int{1}, Offset: [2]int64{0, 4}}}, tensors)
}

func FuzzRead(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}`, 12))
	f.Add(file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 3))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := read(b)
		if err != nil {
			return
		}
		for name, tensor := range tensors {
			if tensor.Offset[0] < 0 || tensor.Offset[1] > int64(len(b))-8 || tensor.Bytes() < 0 {
				t.Fatalf("%s: accepted %+v in a file of %d bytes", name, tensor, len(b))
			}
		}
	})
}
