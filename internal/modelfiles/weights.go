package modelfiles

import (
	"os"
	"path/filepath"
	"strings"
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
		files, _ := Files(dir, pattern) // a file that cannot be read counts as 0 bytes; loading reports why
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				total += info.Size()
			}
		}
	}
	return total
}

// Within are the models in a folder, in the order of their names: folders that are models, and .gguf files, each the first part of a
// split one. Folders that are no models are searched, as deep as LM Studio's ORG/NAME/FILE.gguf.
func Within(dir string) ([]string, error) { return within(dir, 3) }

func within(dir string, depth int) ([]string, error) {
	all, err := Files(dir, "*")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, path := range all {
		stat, err := os.Stat(path)
		if err != nil {
			continue // a link that leads nowhere
		}
		if !stat.IsDir() {
			if strings.EqualFold(filepath.Ext(path), ".gguf") && isModelFile(path) {
				out = append(out, path)
			}
			continue
		}
		// Several .gguf files in a folder are several models, which Find cannot choose from.
		if _, err := Find(path); err == nil {
			out = append(out, path)
		} else if depth > 1 {
			deeper, err := within(path, depth-1)
			if err != nil {
				return nil, err
			}
			out = append(out, deeper...)
		}
	}
	return out, nil
}
