package fused

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAKernelIsCompiledOnceForAllProcesses(t *testing.T) {
	dir := t.TempDir()
	compiled := 0
	get := func(key string) []byte {
		code, err := codeCache{dir, 1 << 20}.get(key, func() ([]byte, error) { compiled++; return []byte("code of " + key), nil })
		require.NoError(t, err)
		require.Equal(t, "code of "+key, string(code))
		return code
	}
	get("a")
	get("a")
	require.Equal(t, 1, compiled)
	get("b")
	require.Equal(t, 2, compiled)
}

func TestADamagedKernelIsCompiledAnew(t *testing.T) {
	dir := t.TempDir()
	c := codeCache{dir, 1 << 20}
	build := func() ([]byte, error) { return []byte("right"), nil }
	_, err := c.get("a", build)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	whole, err := os.ReadFile(files[0])
	require.NoError(t, err)
	for name, damaged := range map[string][]byte{
		"cut": whole[:len(whole)-1], "short": whole[:3], "empty": {}, "changed": append(append([]byte{}, whole[:len(whole)-1]...), 'x'),
	} {
		require.NoError(t, os.WriteFile(files[0], damaged, 0o600))
		code, err := c.get("a", build)
		require.NoError(t, err)
		require.Equal(t, "right", string(code), name)
		again, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.Equal(t, whole, again, name)
	}
}

func TestTheKernelCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	c := codeCache{dir, 3000}
	build := func() ([]byte, error) { return make([]byte, 900), nil }
	old := time.Now().Add(-2 * time.Hour)
	left := filepath.Join(dir, "new-left-by-a-process-that-died")
	require.NoError(t, os.WriteFile(left, nil, 0o600))
	require.NoError(t, os.Chtimes(left, old, old))
	for i := range 5 {
		_, err := c.get(fmt.Sprint(i), build)
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(dir, "*"+cacheSuffix))
		require.NoError(t, err)
		require.LessOrEqual(t, len(files), 3)
		for j, f := range files { // older than what comes next, whatever the file system's clock shows
			require.NoError(t, os.Chtimes(f, old.Add(time.Duration(j)), old.Add(time.Duration(j))))
		}
	}
	require.NoFileExists(t, left)
}

func TestManyMayFillTheKernelCacheAtOnce(t *testing.T) {
	c := codeCache{t.TempDir(), 2000}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 20 {
				want := fmt.Sprint("code ", j%7, string(make([]byte, 300)))
				code, err := c.get(fmt.Sprint(j%7), func() ([]byte, error) { return []byte(want), nil })
				if err != nil || string(code) != want {
					t.Errorf("%d of %d: %q, %v", j, i, code, err)
				}
			}
		})
	}
	all.Wait()
}

func TestWithoutACacheFolderKernelsAreCompiled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []codeCache{{}, {file, 1000}} {
		code, err := c.get("a", func() ([]byte, error) { return []byte("code"), nil })
		require.NoError(t, err)
		require.Equal(t, "code", string(code))
		failure := errors.New("does not compile")
		_, err = c.get("b", func() ([]byte, error) { return nil, failure })
		require.ErrorIs(t, err, failure)
	}
}
