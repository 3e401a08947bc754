//go:build !cgo || nonative

package mlx

import (
	"context"
	"fmt"

	"forge.lthn.ai/core/go-mlx/engine"
)

// nativeSupports says that this program has no native engine: it was built without cgo or with the tag
// nonative.
func nativeSupports(string) error {
	return fmt.Errorf("this program was built without the native engine: %w", ErrUnsupported)
}

func nativeReadsTemplate(string) error { return nil }

func loadNative(_ context.Context, path string, _ engine.NativeOptions, _ string) (*model, error) {
	return nil, nativeSupports(path)
}

func trainNative(context.Context, string, engine.TrainOptions) (*engine.TrainResult, error) {
	return nil, nativeSupports("")
}
