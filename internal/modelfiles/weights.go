package modelfiles

import (
	"os"
	"path/filepath"
)

// Find lists a folder's files whose names match one of the patterns, such as "*.safetensors". Only names are patterns: a folder
// may be called model[1].
func Find(dir string, patterns ...string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, pattern := range patterns {
		for _, entry := range entries {
			match, err := filepath.Match(pattern, entry.Name())
			if err != nil {
				return nil, err
			}
			if match {
				files = append(files, filepath.Join(dir, entry.Name()))
			}
		}
	}
	return files, nil
}

// Bytes is the size of a folder's files that match one of the patterns: what loading will need, about.
func Bytes(dir string, patterns ...string) int64 {
	var total int64
	files, err := Find(dir, patterns...)
	if err != nil {
		return 0 // the load will say what is wrong
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			total += info.Size()
		}
	}
	return total
}
