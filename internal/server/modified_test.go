package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Clients sort models by the time, and show it.
func TestEveryFormOfModelHasATime(t *testing.T) {
	when := time.Unix(1700000000, 0)
	dir := t.TempDir()
	write := func(path string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		require.NoError(t, os.Chtimes(path, when, when))
	}
	write(filepath.Join(dir, "folder", "config.json"))
	write(filepath.Join(dir, "file.gguf"))
	write(filepath.Join(dir, "of-gguf", "file.gguf"))
	require.NoError(t, os.Chtimes(filepath.Join(dir, "of-gguf"), when, when))
	hub := filepath.Join(dir, "hub")
	t.Setenv("HF_HUB_CACHE", hub)
	write(filepath.Join(hub, "models--org--name", "snapshots", "abc", "config.json"))
	require.NoError(t, os.MkdirAll(filepath.Join(hub, "models--org--name", "refs"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(hub, "models--org--name", "refs", "main"), []byte("abc"), 0o600))
	for _, path := range []string{filepath.Join(dir, "folder"), filepath.Join(dir, "file.gguf"), filepath.Join(dir, "of-gguf"), "org/name"} {
		require.Equal(t, when.Unix(), modified(path).Unix(), path)
	}
	require.Zero(t, modified(filepath.Join(dir, "gone")).Unix())
}
