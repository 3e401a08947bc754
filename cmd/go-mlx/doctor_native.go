//go:build cgo && !nonative

package main

import (
	"context"
	"fmt"

	"forge.lthn.ai/core/go-mlx/native"
)

func examineNative(ctx context.Context) finding {
	f := finding{Part: "native engine", State: "ok", engine: true}
	in, err := native.Inspect(ctx)
	if err != nil {
		f.State, f.Detail, f.Advice = "wrong", err.Error(), "make distclean build"
		return f
	}
	f.Detail = fmt.Sprintf("MLX %s on %s", in.MLX, in.Device)
	if in.MemoryBytes > 0 {
		f.Detail += fmt.Sprintf(", %.1f GiB", float64(in.MemoryBytes)/(1<<30))
	}
	return f
}
