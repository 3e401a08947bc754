package gguf

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// splitModel writes a model of three parts and returns their paths; change edits the metadata of a part, by its index.
func splitModel(t *testing.T, change map[int]map[string]any) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i, tensor := range []entry{
		{"token_embd.weight", F32, []uint64{1, 2}, floats(2)}, {"output_norm.weight", F32, []uint64{4}, floats(4)}, {"blk.0.ffn_up.weight", F32, []uint64{2, 2}, floats(4)},
	} {
		metadata := map[string]any{}
		if i == 0 {
			metadata = tiny("qwen3")
		}
		metadata["split.count"], metadata["split.no"], metadata["split.tensors.count"] = 3, i, 3
		maps.Copy(metadata, change[i])
		maps.DeleteFunc(metadata, func(_ string, value any) bool { return value == nil })
		path := filepath.Join(dir, fmt.Sprintf("m-%05d-of-00003.gguf", i+1))
		require.NoError(t, os.WriteFile(path, build(t, metadata, tensor), 0o600))
		paths = append(paths, path)
	}
	return paths
}

// Later parts do not say of which model they are. What they say must fit, or a model would be put together of two.
func TestPartsThatAreNotOfOneModelAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change map[int]map[string]any
		want   string // in the error; "" for none
	}{
		"a whole model":                     {nil, ""},
		"without the tensors' number":       {map[int]map[string]any{0: {"split.tensors.count": nil}, 1: {"split.tensors.count": nil}, 2: {"split.tensors.count": nil}}, ""},
		"two parts changed places":          {map[int]map[string]any{1: {"split.no": 2}, 2: {"split.no": 1}}, "split.no"},
		"a part twice":                      {map[int]map[string]any{2: {"split.no": 1}}, "split.no"},
		"a part that is none":               {map[int]map[string]any{1: {"split.no": nil, "split.count": nil}}, "split."},
		"a part of four":                    {map[int]map[string]any{2: {"split.count": 4}}, "split.count"},
		"a part of a model of more tensors": {map[int]map[string]any{1: {"split.tensors.count": 9}}, "a model of 9 tensors"},
		"tensors that are not there":        {map[int]map[string]any{0: {"split.tensors.count": 4}, 1: {"split.tensors.count": 4}, 2: {"split.tensors.count": 4}}, "4 tensors"},
		"another architecture":              {map[int]map[string]any{1: {"general.architecture": "llama"}}, `"llama"`},
		"the architecture again":            {map[int]map[string]any{1: {"general.architecture": "qwen3"}}, ""},
		"a count that is a text":            {map[int]map[string]any{2: {"split.count": "3"}}, "split.count"},
	} {
		paths := splitModel(t, c.change)
		got, err := Open(paths[0], Plain)
		if c.want == "" {
			require.NoError(t, err, name)
			require.Len(t, got.Header.Tensors, 3)
			require.NoError(t, got.Close())
			continue
		}
		require.ErrorIs(t, err, ErrMalformed, name)
		require.ErrorContains(t, err, c.want, name)
	}
	paths := splitModel(t, nil)
	for _, part := range paths[1:] {
		require.NoError(t, os.Remove(part))
	}
	_, err := Open(paths[0], Plain)
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, part := range paths[1:] {
		require.ErrorContains(t, err, part, "all that is missing is named at once")
	}
	require.ErrorContains(t, err, "2 of the model's 3 parts")
}
