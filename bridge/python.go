package bridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/python"
)

// PythonVariable is the environment variable that names the Python interpreter of the workers.
const PythonVariable = "GO_MLX_PYTHON"

// ErrNoPython is wrapped when no interpreter was found.
var ErrNoPython = errors.New("no Python environment for mlx-lm")

// FindPython returns the interpreter to use: the given one, else GO_MLX_PYTHON, else .venv/bin/python in the program's own
// folder or the one above it, else python3 on the PATH. The working directory and what is above it are not looked at: they may be
// somebody else's, such as a model folder, and an interpreter found there would run.
func FindPython(given string) (string, error) {
	if given != "" {
		found, err := executable(given)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNoPython, &engine.OptionError{Option: "Python", Reason: err.Error(), Err: err})
		}
		return found, nil
	}
	if path := os.Getenv(PythonVariable); path != "" {
		found, err := executable(path)
		if err != nil {
			return "", fmt.Errorf("%w: %s: %w", ErrNoPython, PythonVariable, err)
		}
		return found, nil
	}
	if program, err := os.Executable(); err == nil {
		if found, err := filepath.EvalSymlinks(program); err == nil {
			program = found
		}
		dir := filepath.Dir(program)
		for _, dir := range []string{dir, filepath.Dir(dir)} {
			path := filepath.Join(dir, ".venv", "bin", "python")
			if info, err := os.Stat(path); err == nil && !info.IsDir() && onlyOurs(dir) == nil {
				return path, nil
			}
		}
	}
	if path, err := exec.LookPath("python3"); err == nil {
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("%w: run `make build` in the go-mlx folder, or set %s to a Python that has mlx-lm", ErrNoPython, PythonVariable)
}

// executable is the absolute path of a program: workers run in another folder.
func executable(path string) (string, error) {
	found, err := exec.LookPath(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(found)
}

// cacheDir is this project's folder among the user's caches. Without a home it is one of the user's own in the folder for
// temporary files.
func cacheDir() string {
	cache, err := os.UserCacheDir()
	if err != nil || !filepath.IsAbs(cache) { // a relative one would be the working directory's
		return temporaryDir()
	}
	return filepath.Join(cache, "go-mlx")
}

func temporaryDir() string {
	dir := os.TempDir()
	if abs, err := filepath.Abs(dir); err == nil { // workers run in another folder
		dir = abs
	}
	return filepath.Join(dir, fmt.Sprintf("go-mlx-%d", os.Getuid()))
}

// workerSource makes sure the worker's Python files are on disk and returns the folder to import from.
// It is named by their contents, so programs of different versions do not meet. What is there already is not trusted: only the
// user may be able to write to the folder, and every file is compared.
//
// Users of services and containers often have a home that is not there, or that they cannot write to: that is like none.
func workerSource() (string, error) {
	cache, temporary := cacheDir(), temporaryDir()
	dir, err := writeSource(cache)
	var refused *fs.PathError
	if err == nil || cache == temporary || !errors.As(err, &refused) {
		return dir, wrapSource(err)
	}
	dir, second := writeSource(temporary)
	if second != nil {
		return "", wrapSource(errors.Join(err, second))
	}
	return dir, nil
}

func wrapSource(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("bridge: worker files (HOME or XDG_CACHE_HOME says where they may be): %w", err)
}

func writeSource(cache string) (string, error) {
	hash := sha256.New()
	files := map[string][]byte{}
	err := fs.WalkDir(python.Worker, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := python.Worker.ReadFile(path)
		files[path] = data
		fmt.Fprintf(hash, "%s %d\n", path, len(data))
		hash.Write(data)
		return err
	})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	if err := onlyOurs(cache); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "worker-"+hex.EncodeToString(hash.Sum(nil)[:8]))
	if holds(dir, files) {
		return dir, nil
	}
	// Another program, or another worker's start in this one, may be about to do the same, and to let its worker begin in the folder: what is
	// good is never replaced.
	unlock, err := lockFolder(cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if holds(dir, files) {
		return dir, nil
	}
	// Written beside and renamed, so that what is there is whole.
	temp, err := os.MkdirTemp(cache, "worker-*.tmp")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	for path, data := range files {
		target := filepath.Join(temp, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(target, data, 0o600); err != nil {
			return "", err
		}
	}
	if err := os.Rename(temp, dir); err == nil || holds(dir, files) { // where there are no locks, somebody may have been quicker
		return dir, nil
	}
	// What is there is not what it should be: a copy that was broken off, or changed by hand.
	if err := os.Rename(dir, temp+".old"); err == nil {
		defer os.RemoveAll(temp + ".old")
	}
	if err := os.Rename(temp, dir); err != nil && !holds(dir, files) {
		return "", err
	}
	return dir, nil
}

// holds reports whether a folder has these files and nothing else, and nobody else can change any of it.
func holds(dir string, files map[string][]byte) bool {
	if onlyOurs(dir) != nil {
		return false
	}
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := checkOwner(path, info); err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if want, ok := files[filepath.ToSlash(name)]; err != nil || !ok || !entry.Type().IsRegular() || !bytes.Equal(data, want) {
			return fmt.Errorf("%s is not ours", name)
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}
