package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// fingerprintSamples is how many places of a weights file its fingerprint looks at.
const fingerprintSamples = 64

// Fingerprint tells models apart: a hash of the config and of samples of the weights. Reading all weights
// would take as long as loading them.
func Fingerprint(from *modelfiles.Source, adapter string) (string, error) {
	hash := sha256.New()
	config, err := from.Read("config.json")
	if err != nil {
		return "", err
	}
	hash.Write(config)
	files, err := weightFiles(from)
	if err != nil {
		return "", err
	}
	if adapter != "" {
		files = append(files, filepath.Join(adapter, AdapterWeightsFile))
	}
	for _, path := range files {
		if err := sampleFile(hash, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func sampleFile(w io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s %d\n", filepath.Base(path), stat.Size())
	sample := make([]byte, 4096)
	for i := range int64(fingerprintSamples) {
		n, err := file.ReadAt(sample, stat.Size()/fingerprintSamples*i)
		if err != nil && err != io.EOF {
			return err
		}
		if _, err := w.Write(sample[:n]); err != nil {
			return err
		}
	}
	return nil
}
