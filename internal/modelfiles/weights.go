package modelfiles

import (
	"os"
	"path/filepath"
)

// Bytes is the size of a folder's files that match one of the patterns, such as "*.safetensors": what loading will need, about. Of a
// file it is its own.
func Bytes(dir string, patterns ...string) int64 {
	if info, err := os.Stat(dir); err == nil && info.Mode().IsRegular() {
		return info.Size()
	}
	var total int64
	for _, pattern := range patterns {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				total += info.Size()
			}
		}
	}
	return total
}
