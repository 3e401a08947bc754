//go:build unix

package bridge

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestTheWorkersFilesAreComparedBeforeTheyAreUsed(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	dir, err := writeSource(cache)
	require.NoError(t, err)
	server := filepath.Join(dir, "go_mlx_worker", "server.py")
	want, err := os.ReadFile(server)
	require.NoError(t, err)
	for name, damage := range map[string]func() error{
		"half written": func() error { return os.WriteFile(server, want[:100], 0o600) },
		"changed":      func() error { return os.WriteFile(server, append([]byte("import evil\n"), want...), 0o600) },
		"missing":      func() error { return os.Remove(server) },
		"a file more":  func() error { return os.WriteFile(filepath.Join(dir, "msgpack.py"), nil, 0o600) },
		"compiled code": func() error {
			compiled := filepath.Join(dir, "go_mlx_worker", "__pycache__")
			return errors.Join(os.MkdirAll(compiled, 0o700), os.WriteFile(filepath.Join(compiled, "server.cpython-311.pyc"), nil, 0o600))
		},
		"a link": func() error {
			target := filepath.Join(t.TempDir(), "elsewhere.py")
			return errors.Join(os.WriteFile(target, want, 0o600), os.Remove(server), os.Symlink(target, server))
		},
		"a file that others can write":   func() error { return os.Chmod(server, 0o666) },
		"a folder that others can write": func() error { return os.Chmod(filepath.Dir(server), 0o777) },
		"a folder of all":                func() error { return os.Chmod(dir, 0o777) },
	} {
		require.NoError(t, damage(), name)
		again, err := writeSource(cache)
		require.NoError(t, err, name)
		require.Equal(t, dir, again)
		got, err := os.ReadFile(server)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
		require.NoFileExists(t, filepath.Join(dir, "msgpack.py"))
		require.NoDirExists(t, filepath.Join(dir, "go_mlx_worker", "__pycache__"))
		for _, path := range []string{dir, filepath.Dir(server), server} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Zero(t, info.Mode().Perm()&0o077, "%s: %s", name, path)
		}
	}
	entries, err := os.ReadDir(cache)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left beside it")
}

// Several programs, or several workers of one, start for the first time at once. None of them loses the folder that it begins to work in.
func TestTheWorkersFilesMayBeWrittenBySeveralAtOnce(t *testing.T) {
	for name, before := range map[string]func(dir string) error{
		"nothing is there": os.RemoveAll,
		"what is there is damaged": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "go_mlx_worker", "server.py"), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cache := filepath.Join(t.TempDir(), "cache")
			dir, err := writeSource(cache)
			require.NoError(t, err)
			for range 5 {
				require.NoError(t, before(dir))
				var group sync.WaitGroup
				start := make(chan struct{})
				seen, errs := make([]os.FileInfo, 8), make([]error, 8)
				for i := range seen {
					group.Go(func() {
						<-start
						if _, errs[i] = writeSource(cache); errs[i] == nil {
							seen[i], errs[i] = os.Stat(dir) // a worker's working directory from now on
						}
					})
				}
				close(start)
				group.Wait()
				require.NoError(t, errors.Join(errs...))
				now, err := os.Stat(dir)
				require.NoError(t, err)
				for _, was := range seen {
					require.True(t, os.SameFile(was, now), "it was replaced under a worker that had begun")
				}
			}
			entries, err := os.ReadDir(cache)
			require.NoError(t, err)
			require.Len(t, entries, 1, "nothing is left beside it")
		})
	}
}

// A worker is started again hours after the first one. Folders of caches and for temporary files are cleared, and may be changed, meanwhile.
func TestTheWorkersFilesAreLookedAtBeforeEveryStart(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	cmd, err := workerCommand(Options{Python: "/bin/sh"})
	require.NoError(t, err)
	first, err := cmd.ready()
	require.NoError(t, err)
	server := filepath.Join(first.dir, "go_mlx_worker", "server.py")
	require.FileExists(t, server)
	for _, change := range []func() error{
		func() error { return os.RemoveAll(cacheDir()) },
		func() error { return os.WriteFile(server, nil, 0o600) },
	} {
		require.NoError(t, change())
		again, err := cmd.ready()
		require.NoError(t, err)
		require.Equal(t, first.args, again.args)
		data, err := os.ReadFile(server)
		require.NoError(t, err)
		require.NotEmpty(t, data)
	}
	cmd.dir = filepath.Join(t.TempDir(), "gone")
	_, err = cmd.ready()
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "working directory")

	noLeaks(t)
	starts := 0 // one start after the other
	fake := fakeCommand("counts and dies once", onceVariable+"="+filepath.Join(t.TempDir(), "once"))
	fake.source = func() (string, error) {
		if starts++; starts == 3 {
			return "", errFakeDeath
		}
		return t.TempDir(), nil
	}
	m, err := load(t.Context(), "/nowhere", Options{QuarantineDir: t.TempDir()}, fake)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	text, err := generateAll(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "0 1 2 3 4 5 6 7 8 9 ", text)
	require.Equal(t, 2, starts)
	require.ErrorIs(t, m.Reset(t.Context()), errFakeDeath)
	require.NoError(t, m.Close())
}

func TestAFolderThatOthersCanWriteToIsRefused(t *testing.T) {
	cache := t.TempDir()
	require.NoError(t, os.Chmod(cache, 0o777))
	_, err := writeSource(cache)
	require.ErrorContains(t, err, "chmod go-w")
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(t.TempDir(), link))
	_, err = writeSource(link)
	require.ErrorContains(t, err, "not a folder")
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	require.Contains(t, cacheDir(), "go-mlx-")
}

// A service's user may have a home that is not there or that it cannot write to.
func TestAHomeThatCannotBeWrittenToIsLikeNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	temporary := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("TMPDIR", temporary)
	for _, home := range []string{file, filepath.Join(file, "inside"), ".", "/proc/nobody"} {
		t.Setenv("HOME", home)
		dir, err := workerSource()
		require.NoError(t, err, home)
		require.Equal(t, temporary, filepath.Dir(filepath.Dir(dir)), home)
		require.FileExists(t, filepath.Join(dir, "go_mlx_worker", "server.py"))
	}
	// Workers run in another folder, so what is relative to this one would not be found.
	t.Chdir(t.TempDir())
	t.Setenv("TMPDIR", "temporary")
	dir, err := workerSource()
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(dir), dir)
	require.FileExists(t, filepath.Join(dir, "go_mlx_worker", "server.py"))
	t.Setenv("TMPDIR", file)
	t.Setenv("HOME", file)
	_, err = workerSource()
	require.ErrorContains(t, err, "XDG_CACHE_HOME")
	// What others can write to is refused, and nothing else is taken in its place.
	t.Setenv("TMPDIR", temporary)
	t.Setenv("HOME", t.TempDir())
	require.NoError(t, os.MkdirAll(cacheDir(), 0o700))
	require.NoError(t, os.Chmod(cacheDir(), 0o777))
	_, err = workerSource()
	require.ErrorContains(t, err, "chmod go-w")
}

func TestNoInterpreterIsTakenFromTheWorkingDirectoryOrAboveIt(t *testing.T) {
	above := t.TempDir()
	python := filepath.Join(above, ".venv", "bin", "python")
	require.NoError(t, os.MkdirAll(filepath.Dir(python), 0o700))
	require.NoError(t, os.WriteFile(python, []byte("#!/bin/sh\nexit 1\n"), 0o700))
	inside := filepath.Join(above, "models", "foreign")
	require.NoError(t, os.MkdirAll(inside, 0o700))
	t.Setenv(PythonVariable, "")
	for _, dir := range []string{above, inside} {
		t.Chdir(dir)
		found, err := FindPython("")
		if err != nil {
			require.ErrorIs(t, err, ErrNoPython)
		}
		require.NotEqual(t, python, found)
	}
	found, err := FindPython("../../.venv/bin/python")
	require.NoError(t, err, "with the option it is")
	require.True(t, filepath.IsAbs(found), "workers run elsewhere")
}

func TestOtherVersionsRunOnlyWhenAskedFor(t *testing.T) {
	newer := Versions{Protocol: protocolVersion, MLX: "99.0.0", MLXLM: "99.0.0"}
	require.ErrorIs(t, checkVersions("python3", newer), ErrVersion)
	t.Setenv(AnyVersionVariable, "1")
	require.NoError(t, checkVersions("python3", newer))
	newer.Protocol++
	require.ErrorIs(t, checkVersions("python3", newer), ErrVersion)
}

func TestAModuleThatIsNotInstalledIsNamed(t *testing.T) {
	tool, err := NewTool(testenv.Python(t))
	require.NoError(t, err)
	_, err = tool.Run(t.Context(), "-c", "import nobody_has_this")
	require.ErrorIs(t, err, ErrVersion)
	require.ErrorContains(t, err, "has no module nobody_has_this: run `make build`")
	require.NotContains(t, err.Error(), "Traceback")
	_, err = tool.Run(t.Context(), "-c", "raise ValueError('broken')")
	require.NotErrorIs(t, err, ErrVersion)
	require.ErrorContains(t, err, "ValueError: broken")
}
