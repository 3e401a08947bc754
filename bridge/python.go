package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/python"
)

// PythonVariable is the environment variable that names the Python interpreter of the workers.
const PythonVariable = "GO_MLX_PYTHON"

// ErrNoPython is wrapped when no interpreter was found.
var ErrNoPython = errors.New("no Python environment for mlx-lm")

// FindPython returns the interpreter to use: the given one, else GO_MLX_PYTHON, else .venv/bin/python
// of the working directory or one above it, or of the program's own, else python3 on the PATH.
func FindPython(given string) (string, error) {
	if given != "" {
		return checkPython("option Python", given)
	}
	if path := os.Getenv(PythonVariable); path != "" {
		return checkPython(PythonVariable, path)
	}
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if program, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(program))
	}
	for _, dir := range starts {
		for {
			path := filepath.Join(dir, ".venv", "bin", "python")
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				return path, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	if path, err := exec.LookPath("python3"); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%w: run `make build` in the go-mlx folder, or set %s to a Python that has mlx-lm", ErrNoPython, PythonVariable)
}

func checkPython(source, path string) (string, error) {
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrNoPython, source, err)
	}
	return found, nil
}

// cacheDir is this project's folder among the user's caches.
func cacheDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "go-mlx")
}

// workerSource makes sure the worker's Python files are on disk and returns the folder to import from.
// It is named by their contents, so programs of different versions do not meet.
func workerSource() (string, error) {
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
	dir := filepath.Join(cacheDir(), "worker-"+hex.EncodeToString(hash.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("bridge: worker files: %w", err)
	}
	// Written beside and renamed: another program may do the same right now.
	temp, err := os.MkdirTemp(filepath.Dir(dir), "worker-*.tmp")
	if err != nil {
		return "", fmt.Errorf("bridge: worker files: %w", err)
	}
	defer os.RemoveAll(temp)
	for path, data := range files {
		target := filepath.Join(temp, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			return "", err
		}
	}
	if err := os.Rename(temp, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", fmt.Errorf("bridge: worker files: %w", err)
		}
	}
	return dir, nil
}
