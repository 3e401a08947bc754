//go:build pkgconfig

package mlxc

// With this tag the libraries are those that `make install` has put somewhere, and not those in this folder.

// #cgo pkg-config: go-mlx
import "C"
