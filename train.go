package mlx

import (
	"context"
	"fmt"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/engine"
)

type (
	// TrainOptions are those of a LoRA training run; see [engine.TrainOptions].
	TrainOptions = engine.TrainOptions
	// TrainProgress is passed to TrainOptions.Progress after each iteration; see [engine.TrainProgress].
	TrainProgress = engine.TrainProgress
	// TrainResult is the outcome of a run; see [engine.TrainResult].
	TrainResult = engine.TrainResult
)

// DefaultTrainOptions are mlx-lm's.
func DefaultTrainOptions() TrainOptions { return engine.DefaultTrainOptions() }

// Train trains a LoRA adapter (Hu et al. 2021, arXiv:2106.09685) for the model in a folder with the native engine and
// writes it to options.Out in mlx-lm's form, for WithAdapter on either engine. Data are JSONL files in mlx-lm's forms:
// lines with "text", with "prompt" and "completion", or with "messages". The model's weights do not change; quantised ones
// serve as well. When ctx ends, training stops after the iteration under way; what was saved last can be resumed.
func Train(ctx context.Context, path string, options TrainOptions) (*TrainResult, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	result, err := trainNative(ctx, path, options)
	if err != nil {
		return nil, fmt.Errorf("train %s: %w", path, err)
	}
	return result, nil
}
