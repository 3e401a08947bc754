package native

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native/internal/train"
)

// Train trains a LoRA adapter for the model in a folder, and writes it to options.Out in mlx-lm's form. It stops between
// iterations when ctx ends; what was saved until then can be resumed.
func Train(ctx context.Context, dir string, options engine.TrainOptions) (_ *engine.TrainResult, err error) {
	if err := options.Validate(); err != nil {
		return nil, err
	}
	m, err := loadFor(ctx, dir, engine.NativeOptions{Exact: options.Exact}, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.network.CheckCausal("train"); err != nil {
		return nil, err
	}
	return train.Run(ctx, m.network, m.encoder, dir, options)
}
