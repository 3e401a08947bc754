package modelfiles

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Names that are patterns to a shell are names to us.
var oddNames = []string{"plain", "a[b", "a[b]", "a*b", "a?b", `a\b`, "[", " ", "{a,b}"}

func TestFilesOfFoldersWithAnyName(t *testing.T) {
	above := t.TempDir()
	var want []string
	for _, name := range oddNames {
		dir := filepath.Join(above, name)
		require.NoError(t, os.Mkdir(dir, 0o755))
		for _, file := range []string{"model-1.safetensors", "model-2.safetensors", "x.gguf", "config.json"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("1234"), 0o644))
		}
		files, err := Files(dir, "model*.safetensors")
		require.NoError(t, err)
		require.Equal(t, []string{filepath.Join(dir, "model-1.safetensors"), filepath.Join(dir, "model-2.safetensors")}, files)
		require.EqualValues(t, 12, Bytes(dir, "*.safetensors", "*.gguf"), name)
		want = append(want, dir)
	}
	require.NoError(t, os.Mkdir(filepath.Join(above, "no model"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(above, "file"), nil, 0o644))
	folders, err := Within(above)
	require.NoError(t, err)
	require.ElementsMatch(t, want, folders)
}

func TestFoldersThatAreNotThere(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := Files(missing, "*")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Within(missing)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Zero(t, Bytes(missing, "*"))
	_, err = Files(t.TempDir(), "[")
	require.NoError(t, err, "nothing is there to match")
}

// Folders of models hold them as they are, as GGUF files, and as LM Studio keeps them.
func TestModelsWithinAFolder(t *testing.T) {
	above := t.TempDir()
	for _, file := range []string{
		"plain/config.json", "plain/model.safetensors", "plain/inner/config.json", "one.GGUF", "split-00001-of-00002.gguf", "split-00002-of-00002.gguf",
		"mmproj-x.gguf", "notes.txt", "org/name/q4.gguf", "org/name/mmproj-q4.gguf", "org/many/q4.gguf", "org/many/q8.gguf", "a/b/c/too-deep.gguf",
	} {
		path := filepath.Join(above, filepath.FromSlash(file))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	require.NoError(t, os.Symlink(filepath.Join(above, "nowhere"), filepath.Join(above, "broken")))
	found, err := Within(above)
	require.NoError(t, err)
	for i := range found {
		found[i], err = filepath.Rel(above, found[i])
		require.NoError(t, err)
	}
	require.ElementsMatch(t, []string{"plain", "one.GGUF", "split-00001-of-00002.gguf", "org/name", "org/many/q4.gguf", "org/many/q8.gguf", "a/b/c"}, found)
}
