//go:build cgo && !nonative

package mlx

import (
	"context"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native"
)

var _ engine.Engine = (*native.Model)(nil)

// nativeSupports returns nil or why the native engine cannot run the model.
func nativeSupports(path string) error { return native.Supported(path) }

// nativeReadsTemplate returns nil or why the native engine cannot read the model's chat template.
func nativeReadsTemplate(path string) error { return native.ReadsTemplate(path) }

func loadNative(ctx context.Context, path string, o engine.NativeOptions, reason string) (*model, error) {
	m, err := native.Load(ctx, path, o)
	if err != nil {
		return nil, err
	}
	return &model{engine: m, reason: reason}, nil
}

func trainNative(ctx context.Context, path string, o engine.TrainOptions) (*engine.TrainResult, error) {
	return native.Train(ctx, path, o)
}
