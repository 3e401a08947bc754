package testenv

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// InFloat32 is a copy of a bfloat16 checkpoint whose tensors have the same values in float32; packed weights stay what they are.
func InFloat32(t testing.TB, dir string) string {
	t.Helper()
	out := t.TempDir()
	require.NoError(t, os.CopyFS(out, os.DirFS(dir)))
	path := filepath.Join(out, "model.safetensors")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	n := binary.LittleEndian.Uint64(data)
	type tensor struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	var header map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data[8:8+n], &header))
	delete(header, "__metadata__")
	wide, body := map[string]tensor{}, []byte{}
	for name, raw := range header {
		var one tensor
		require.NoError(t, json.Unmarshal(raw, &one))
		at := int64(len(body))
		if one.DType == "U32" {
			body = append(body, data[8+int64(n)+one.Offsets[0]:8+int64(n)+one.Offsets[1]]...)
			wide[name] = tensor{one.DType, one.Shape, [2]int64{at, int64(len(body))}}
			continue
		}
		require.Equal(t, "BF16", one.DType, name)
		for i := one.Offsets[0]; i < one.Offsets[1]; i += 2 {
			body = append(body, 0, 0, data[8+int64(n)+i], data[8+int64(n)+i+1])
		}
		wide[name] = tensor{"F32", one.Shape, [2]int64{at, int64(len(body))}}
	}
	text, err := json.Marshal(wide)
	require.NoError(t, err)
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	require.NoError(t, os.WriteFile(path, append(append(file, text...), body...), 0o600))
	return out
}
