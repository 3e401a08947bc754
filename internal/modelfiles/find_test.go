package modelfiles

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// touch makes files, and folders of those that end in a slash.
func touch(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("GGUF"), 0o644))
	}
}

func TestOneGGUFFileAmongOthersIsFound(t *testing.T) {
	for want, others := range map[string][]string{
		"model.gguf":                  {"._model.gguf", "mmproj-model.gguf", "MMPROJ-x.GGUF", "notes.txt"},
		"MODEL.GGUF":                  {"a folder.gguf/"},
		"caf\xe9 [q4].gguf":           {".hidden.gguf"},
		"s\np-00001-of-00003.gguf":    {"s\np-00002-of-00003.gguf", "s\np-00003-of-00003.gguf"},
		"split-00001-of-00002.GGUF":   {"split-00002-of-00002.GGUF"},
		"in a folder/with [brackets]": nil,
	} {
		dir := t.TempDir()
		file := want
		if !strings.HasSuffix(strings.ToLower(want), ".gguf") {
			dir, file = filepath.Join(dir, want), "model.gguf"
			require.NoError(t, os.MkdirAll(dir, 0o755))
		}
		touch(t, dir, append(others, file)...)
		require.NoError(t, os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "broken.gguf")))
		found, err := Find(dir)
		require.NoError(t, err, "%q", want)
		require.Equal(t, filepath.Join(dir, file), found.GGUF)
		require.EqualValues(t, 4, found.Bytes())
		// By a link to the folder and by one to the file.
		link := filepath.Join(t.TempDir(), "a link")
		require.NoError(t, os.Symlink(dir, link))
		found, err = Find(link)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(link, file), found.GGUF)
		require.NoError(t, os.Symlink(filepath.Join(dir, file), link+".gguf"))
		found, err = Find(link + ".gguf")
		require.NoError(t, err)
		require.Equal(t, link+".gguf", found.GGUF)
	}
}

// Ollama's blobs are GGUF files without an ending.
func TestFilesWithoutAnEndingAreToldByTheirFirstBytes(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir, "sha256-0123")
	found, err := Find(filepath.Join(dir, "sha256-0123"))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "sha256-0123"), found.GGUF)
	for name, data := range map[string]string{"empty": "", "short": "GGU", "other": "GGML and more"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
		_, err := Find(path)
		require.ErrorIs(t, err, ErrNotAModel)
		require.ErrorContains(t, err, "is a file, and not a .gguf one")
	}
	// To read a pipe would wait for ever.
	pipe := filepath.Join(dir, "pipe.gguf")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err = Find(pipe)
	require.ErrorIs(t, err, ErrNotAModel)
}

func TestAPathThatIsNotThereIsSaidPlainly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.gguf")
	_, err := Find(path)
	require.ErrorIs(t, err, ErrNotAModel)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.EqualError(t, err, "not a model folder: there is no file or folder "+path+"; a model of the hub is named ORG/NAME")
}

func TestLinksThatLeadNowhereSayWhere(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "blobs", "gone")
	for _, name := range []string{"snapshot/config.json", "model.gguf", "folder"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.Symlink(gone, path))
		_, err := Find(strings.TrimSuffix(path, "/config.json"))
		require.ErrorIs(t, err, ErrNotAModel)
		require.ErrorContains(t, err, gone)
		require.ErrorContains(t, err, "again")
	}
}

// A template that cannot be read costs chats, and no description.
func TestATemplateThatIsAFolder(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir, "chat_template.jinja/")
	has, err := (&Source{Dir: dir}).HasTemplate()
	require.NoError(t, err)
	require.False(t, has)
}
