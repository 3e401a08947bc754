package fused

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// CacheVariable is the environment variable that names the folder of compiled kernels; "off" is none.
const CacheVariable = "GO_MLX_KERNEL_CACHE"

const (
	cacheLimit  = 64 << 20 // bytes
	cacheSuffix = ".kernel"
)

// codeCache keeps compiled kernels in a folder: each in a file that is named by the hash of its source, and begins with the hash of its
// contents. Processes may share a folder: files appear whole, by being renamed, and are never changed. A cache that cannot be read or
// written costs time only.
type codeCache struct {
	dir   string // "": nothing is kept
	limit int64  // bytes of all files; those not used for longest go
}

// openCache is the cache in the user's cache folder, or where the environment says.
func openCache() codeCache {
	dir := os.Getenv(CacheVariable)
	if dir == "off" {
		return codeCache{}
	}
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return codeCache{}
		}
		dir = filepath.Join(base, "go-mlx", "kernels")
	}
	return codeCache{dir: dir, limit: cacheLimit}
}

// get is the code that make gives for what key describes, kept or made now.
func (c codeCache) get(key string, make func() ([]byte, error)) ([]byte, error) {
	if c.dir == "" {
		return make()
	}
	name := sha256.Sum256([]byte(key))
	path := filepath.Join(c.dir, hex.EncodeToString(name[:])+cacheSuffix)
	if data, err := os.ReadFile(path); err == nil && len(data) > sha256.Size {
		code := data[sha256.Size:]
		if sum := sha256.Sum256(code); bytes.Equal(sum[:], data[:sha256.Size]) {
			now := time.Now()
			_ = os.Chtimes(path, now, now) // when it was last used; a file whose time cannot be set is only removed earlier
			return code, nil
		}
	}
	code, err := make()
	if err != nil {
		return nil, err
	}
	_ = c.put(path, code) // the kernel is there, and the next process tries again
	return code, nil
}

func (c codeCache) put(path string, code []byte) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	f, err := os.CreateTemp(c.dir, "new-*")
	if err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	sum := sha256.Sum256(code)
	_, err = f.Write(append(sum[:], code...))
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("kernel cache: %w", err)
	}
	return c.shrink(path)
}

// shrink removes what was not used for longest until the rest is within the limit, but not the file that was just written.
// What another process left unfinished goes too once it is an hour old.
func (c codeCache) shrink(newest string) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // another process was quicker
		}
		if filepath.Ext(e.Name()) != cacheSuffix {
			if ok, _ := filepath.Match("new-*", e.Name()); ok && time.Since(info.ModTime()) > time.Hour {
				_ = os.Remove(filepath.Join(c.dir, e.Name()))
			}
			continue
		}
		total += info.Size()
		if filepath.Join(c.dir, e.Name()) != newest {
			files = append(files, info)
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano()) })
	for _, info := range files {
		if total <= c.limit {
			break
		}
		if err := os.Remove(filepath.Join(c.dir, info.Name())); err == nil || os.IsNotExist(err) {
			total -= info.Size()
		}
	}
	return nil
}
