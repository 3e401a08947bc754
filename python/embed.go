// Package python carries the source of the worker that the bridge runs, so that a Go program needs no
// files beside it but a Python environment with mlx-lm.
package python

import "embed"

// Worker holds the package go_mlx_worker.
//
//go:embed go_mlx_worker/*.py
var Worker embed.FS
