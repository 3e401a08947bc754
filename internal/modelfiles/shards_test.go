package modelfiles

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

func TestShardsThatAreMissingAreNamed(t *testing.T) {
	const one, two, three = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"
	index := `{"weight_map": {"a": "` + one + `", "b": "` + two + `", "c": "` + three + `"}}`
	for name, c := range map[string]struct {
		files   []string
		index   string
		missing []string
	}{
		"all are there":                    {[]string{one, two, three}, index, nil},
		"one file":                         {[]string{"model.safetensors"}, "", nil},
		"the second is missing":            {[]string{one, three}, "", []string{two}},
		"two are missing":                  {[]string{two}, "", []string{one, three}},
		"an index of another splitting":    {[]string{"model-00001-of-00001.safetensors"}, index, nil},
		"the index counts more":            {[]string{one, "model-language-00001-of-00001.safetensors"}, index, []string{two, three}},
		"an index alone":                   {nil, index, []string{one, two, three}},
		"joined, and the index stayed":     {[]string{"model.safetensors"}, index, nil},
		"an index that cannot be read":     {[]string{one, two, three}, "{", nil},
		"a name that claims too much":      {[]string{"model-00001-of-99999.safetensors"}, "", nil},
		"a folder with other weights only": {[]string{"adapters.safetensors"}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			touch(t, dir, c.files...)
			if c.index != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(c.index), 0o644))
			}
			_, err := Tensors(dir)
			if c.missing == nil {
				require.NoError(t, err)
				return
			}
			var bad *engine.CheckpointError
			require.ErrorAs(t, err, &bad)
			require.Len(t, bad.Problems, len(c.missing))
			for i, file := range c.missing {
				require.Contains(t, bad.Problems[i], file)
			}
		})
	}
	// A link that leads nowhere, as a cache has it whose blob was deleted.
	dir := t.TempDir()
	touch(t, dir, one, three)
	require.NoError(t, os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, two)))
	_, err := Tensors(dir)
	require.ErrorContains(t, err, two)
	dir = t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "model.safetensors")))
	_, err = Tensors(dir)
	require.ErrorContains(t, err, "the file model.safetensors is missing")
}
