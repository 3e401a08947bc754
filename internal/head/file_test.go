package head

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAFileGivesTheHeadBack(t *testing.T) {
	h := fitted(t)
	path := filepath.Join(t.TempDir(), "head.safetensors")
	require.NoError(t, h.Save(path))
	got, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, h, got)
	require.NoError(t, h.Save(path), "over the old one")
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	_, err = Load(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	h.bias[0] = float32(math.NaN())
	require.Error(t, h.Save(path))
	_, err = Load(path)
	require.NoError(t, err, "what was there is still there")
}

func written(t testing.TB) []byte {
	var b bytes.Buffer
	require.NoError(t, fitted(t).Write(&b))
	return b.Bytes()
}

// altered is a file whose header went through change.
func altered(t testing.TB, data []byte, change func(header, classifier map[string]any)) []byte {
	n := binary.LittleEndian.Uint64(data)
	var header, classifier map[string]any
	require.NoError(t, json.Unmarshal(data[8:8+n], &header))
	meta := header["__metadata__"].(map[string]any)
	require.NoError(t, json.Unmarshal([]byte(meta["classifier"].(string)), &classifier))
	change(header, classifier)
	text, err := json.Marshal(classifier)
	require.NoError(t, err)
	meta["classifier"] = string(text)
	out, err := json.Marshal(header)
	require.NoError(t, err)
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(out))), out...), data[8+n:]...)
}

func TestBrokenFilesAreErrors(t *testing.T) {
	data := written(t)
	nan := bytes.Clone(data)
	binary.LittleEndian.PutUint32(nan[len(nan)-4:], 0x7fc00000)
	set := func(key string, value any) []byte {
		return altered(t, data, func(_, c map[string]any) { c[key] = value })
	}
	for want, file := range map[string][]byte{
		"shorter than 8 bytes":  nil,
		"truncated":             data[:len(data)-1],
		"header of":             append(bytes.Repeat([]byte{0xff}, 8), 1),
		"a number is NaN":       nan,
		"want F32 [2 8]":        set("labels", []string{"a", "b"}),
		"occurs twice":          set("labels", []string{"a", "b", "b"}),
		"is empty or not UTF-8": set("labels", []string{"a", "b", " "}),
		"layer -1":              set("layer", -1),
		"exactly once":          set("prompt", "a text"),
		"temperature 0":         set("temperature", 0),
		"cannot unmarshal":      set("labels", 7),
		"it is no classifier's": altered(t, data, func(h, _ map[string]any) { h["__metadata__"].(map[string]any)["format"] = "other" }),
		"another version of go-mlx wrote it; write one with `go-mlx classifier train`": altered(t, data, func(h, _ map[string]any) { h["__metadata__"].(map[string]any)["format"] = "go-mlx classifier 2" }),
		"want F32 [8]":    altered(t, data, func(h, _ map[string]any) { h["mean"].(map[string]any)["dtype"] = "I32" }),
		"want F32 [3]":    altered(t, data, func(h, _ map[string]any) { h["bias"].(map[string]any)["dtype"] = "I32" }),
		"it abstains by":  set("abstain_by", "luck"),
		"weight with two": altered(t, data, func(h, _ map[string]any) { delete(h, "weight") }),
	} {
		_, err := Parse(file)
		require.ErrorIs(t, err, ErrFile, want)
		require.ErrorContains(t, err, want)
	}
}

func FuzzParse(f *testing.F) {
	data := written(f)
	f.Add(data)
	f.Add(data[:40])
	f.Add(altered(f, data, func(_, c map[string]any) { c["labels"] = nil }))
	f.Add(altered(f, data, func(_, c map[string]any) { c["prompt"] = "{text}{text}" }))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Parse(data)
		if err != nil {
			require.ErrorIs(t, err, ErrFile)
			return
		}
		h.Predict(make([]float32, h.Size()))
		var b bytes.Buffer
		require.NoError(t, h.Write(&b), "what was read can be written")
	})
}
