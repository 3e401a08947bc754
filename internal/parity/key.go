package parity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// NewKey hashes the files of a model folder that an engine reads, and the options that decide about a result.
// versions are those of what computes.
func NewKey(dir string, options Options, versions map[string]string) (Key, error) {
	key := Key{}
	for name, version := range versions {
		key["version of "+name] = version
	}
	data, err := json.Marshal([]any{options.Prompts, options.Labels, options.Tokens, options.Rows, options.Tolerance})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	key["options"] = hex.EncodeToString(sum[:])
	if info, err := os.Stat(dir); err == nil && info.Mode().IsRegular() { // a GGUF file
		key[filepath.Base(dir)], err = hashFile(dir)
		return key, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.IsDir() || !slices.Contains([]string{".json", ".jinja", ".safetensors", ".gguf", ".model", ".txt", ".py"}, strings.ToLower(filepath.Ext(entry.Name()))) {
			continue
		}
		if key[entry.Name()], err = hashFile(filepath.Join(dir, entry.Name())); err != nil {
			return nil, fmt.Errorf("parity: %w", err)
		}
	}
	return key, nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
