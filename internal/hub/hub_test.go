package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// put writes files below a cache, which it makes the one that is looked at.
func put(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HF_HUB_CACHE", dir)
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

func TestWhatCannotBeReadCostsTheListNothingElse(t *testing.T) {
	dir := put(t, map[string]string{
		"models--o--a/refs/main": "abc\n", "models--o--a/snapshots/abc/config.json": "{}", "models--o--a/snapshots/def/config.json": "{}",
		"models--o--damaged/snapshots": "a file", "models--o--z/refs/main": "abc", "models--o--z/snapshots/abc/config.json": "12345",
		"models--o--file": "", "models----/refs/main": "abc", "models--o--a b/refs/main": "abc", "models--o--\x1b[31m/refs/main": "abc", "models--o--../refs/main": "abc",
		"datasets--o--d/refs/main": "abc", "models--alone/refs/main": "abc", ".locks/x": "",
	})
	elsewhere := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(elsewhere, "snapshots", "abc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "snapshots", "abc", "model.gguf"), []byte("1234"), 0o644))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, "models--o--on-another-disk")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "models--o--nowhere")))
	models, err := List()
	require.ErrorContains(t, err, "o/damaged")
	require.Equal(t, []Model{
		{Name: "o/a", Revisions: []string{"def", "main"}, Bytes: 8, Path: filepath.Join(dir, "models--o--a")},
		{Name: "o/on-another-disk", Revisions: []string{"abc"}, Bytes: 4, Path: filepath.Join(dir, "models--o--on-another-disk")},
		{Name: "o/z", Revisions: []string{"main"}, Bytes: 8, Path: filepath.Join(dir, "models--o--z")},
	}, models)
	// Of a link only the link is deleted.
	bytes, err := Remove("o/on-another-disk")
	require.NoError(t, err)
	require.EqualValues(t, 4, bytes)
	require.FileExists(t, filepath.Join(elsewhere, "snapshots", "abc", "model.gguf"))
	require.NoDirExists(t, filepath.Join(dir, "models--o--on-another-disk"))
}

func TestRevisionsLeadNowhereElse(t *testing.T) {
	dir := put(t, map[string]string{"models--o--m/snapshots/abc/config.json": "{}", "models--o--m/config.json": "{}"})
	for _, commit := range []string{"", ".", "..", "../..", "/etc", `a\b`, " \n", strings.Repeat("\x00", 40), strings.Repeat("a", 5000), "a b", "\x1b[31m", "-x"} {
		refs := filepath.Join(dir, "models--o--m", "refs")
		require.NoError(t, os.MkdirAll(refs, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(refs, "main"), []byte(commit), 0o644))
		_, err := Find(Name{Repo: "o/m", Revision: "main"})
		require.ErrorIs(t, err, ErrNotCached, "%q", commit)
	}
	for _, revision := range []string{".", "abc/.."} {
		_, err := Find(Name{Repo: "o/m", Revision: revision})
		require.Error(t, err, "%q", revision)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "models--o--m", "refs", "pr", "1"), 0o755))
	for _, revision := range []string{"pr", "pr/1", "main/x"} { // a folder of branches, and what would be below a branch
		_, err := Find(Name{Repo: "o/m", Revision: revision})
		require.ErrorIs(t, err, ErrNotCached, "%q", revision)
	}
	found, err := Find(Name{Repo: "o/m", Revision: "abc"})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "models--o--m", "snapshots", "abc"), found)
}

// Models are deleted as a whole: of a revision, or a file, others may be lost with it.
func TestOnlyWholeModelsAreDeleted(t *testing.T) {
	dir := put(t, map[string]string{"models--o--m/refs/main": "abc", "models--o--m/refs/dev": "def", "models--o--m/snapshots/abc/config.json": "{}"})
	for _, name := range []string{"o/m@main", "o/m@dev", "o/m:x.gguf", "o/m@abc", "o", "../o", "o/*", ""} {
		_, err := Remove(name)
		require.ErrorContains(t, err, "ORG/NAME", name)
		require.DirExists(t, filepath.Join(dir, "models--o--m"))
	}
	_, err := Remove("o/m")
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(dir, "models--o--m"))
}

func TestNames(t *testing.T) {
	for text, want := range map[string]Name{
		"o/m": {"o/m", "main", ""}, "o/m@v1.0": {"o/m", "v1.0", ""}, "o/m@refs/pr/1:a b [c].gguf": {"o/m", "refs/pr/1", "a b [c].gguf"},
		"o/m@feature/x.y_z:-x.gguf": {"o/m", "feature/x.y_z", "-x.gguf"}, "o/m@" + strings.Repeat("a1", 20): {"o/m", strings.Repeat("a1", 20), ""},
		"o/m:Q4/m-00001-of-00002.gguf": {"o/m", "main", "Q4/m-00001-of-00002.gguf"},
	} {
		got, ok := Parse(text)
		require.True(t, ok, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"m", "o/m/x", "/o/m", "o/m@", "o/m:", "o/m@:x", "o/m:../x", "o/m@..:x", "o/m:a:b", "../m", "o/..", "", "o /m",
		"o/m@/etc/x", "o/m@-x", "o/m@a//b", "o/m@a/", "o/m@.x", "o/m@a/.x", "o/m@a/-b", "o/m@--file", "o/m:/x.gguf"} {
		_, ok := Parse(text)
		require.False(t, ok, text)
	}
}

// What is in variables that no shell has read is read as huggingface_hub reads it.
func TestFoldersInVariables(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	t.Setenv("DISK", "/disk")
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, "")
	}
	for _, c := range []struct{ name, value, want string }{
		{"HF_HUB_CACHE", "~/models", "/home/me/models"},
		{"HUGGINGFACE_HUB_CACHE", "$DISK/models", "/disk/models"},
		{"HF_HOME", "${DISK}/hf", "/disk/hf/hub"},
		{"HF_HOME", "~", "/home/me/hub"},
		{"XDG_CACHE_HOME", "$NOT_SET/c", "$NOT_SET/c/huggingface/hub"},
		{"HF_HOME", "/~a", "/~a/hub"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			got, err := CacheDir()
			if err != nil || filepath.ToSlash(got) != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}
