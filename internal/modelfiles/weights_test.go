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
	folders, err := Folders(above)
	require.NoError(t, err)
	require.ElementsMatch(t, want, folders)
}

func TestFoldersThatAreNotThere(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := Files(missing, "*")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Folders(missing)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Zero(t, Bytes(missing, "*"))
	_, err = Files(t.TempDir(), "[")
	require.NoError(t, err, "nothing is there to match")
}
