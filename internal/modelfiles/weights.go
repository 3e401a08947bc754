package modelfiles

import (
	"os"
	"path/filepath"
)

// Bytes is the size of a folder's files that match one of the patterns, such as "*.safetensors": what loading will need, about.
func Bytes(dir string, patterns ...string) int64 {
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
