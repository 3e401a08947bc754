package modelfiles

import (
	"os"
	"path/filepath"
)

// Files are the paths of a folder's entries whose names match a pattern such as "*.safetensors", sorted. Other than with
// filepath.Glob the folder is taken by its name, whatever characters that has.
func Files(dir, pattern string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, entry := range entries {
		matches, err := filepath.Match(pattern, entry.Name())
		if err != nil {
			return nil, err
		}
		if matches {
			out = append(out, filepath.Join(dir, entry.Name()))
		}
	}
	return out, nil
}

// Bytes is the size of a folder's files that match one of the patterns, such as "*.safetensors": what loading will need, about. Of a
// file it is its own.
func Bytes(dir string, patterns ...string) int64 {
	if info, err := os.Stat(dir); err == nil && info.Mode().IsRegular() {
		return info.Size()
	}
	var total int64
	for _, pattern := range patterns {
		files, _ := Files(dir, pattern) // what cannot be read has no size; loading says why
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				total += info.Size()
			}
		}
	}
	return total
}

// Folders are the folders in a folder that hold a config.json, sorted.
func Folders(dir string) ([]string, error) {
	all, err := Files(dir, "*")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, folder := range all {
		if _, err := os.Stat(filepath.Join(folder, "config.json")); err == nil {
			out = append(out, folder)
		}
	}
	return out, nil
}
