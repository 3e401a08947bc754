//go:build cgo && !nonative

package main

import (
	"context"
	"fmt"

	"forge.lthn.ai/core/go-mlx/native"
)

// examineNative also returns what there is to know of an NVIDIA GPU that the engine uses.
func examineNative(ctx context.Context) (_ finding, cuda string) {
	f := finding{Part: "native engine", State: "ok", engine: true}
	in, err := native.Inspect(ctx)
	if err != nil {
		f.State, f.Detail, f.Advice = "wrong", err.Error(), "make distclean build"
		return f, ""
	}
	f.Detail = fmt.Sprintf("MLX %s on %s", in.MLX, in.Device)
	if in.MemoryBytes > 0 {
		f.Detail += fmt.Sprintf(", %.1f GiB", float64(in.MemoryBytes)/(1<<30))
	}
	return f, in.CUDA
}

// modelMemory is how many bytes of memory models may take: on an NVIDIA GPU the card's, and elsewhere the system's; 0 if it is not known.
func modelMemory(ctx context.Context) int64 {
	if in, err := native.Inspect(ctx); err == nil && in.CUDA != "" {
		return int64(in.MemoryBytes)
	}
	return systemMemory()
}
