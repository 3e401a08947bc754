//go:build pkgconfig

package tokenizer

// #cgo pkg-config: go-mlx
import "C"
