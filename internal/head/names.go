package head

import "forge.lthn.ai/core/go-mlx/quality"

// Reports are defined in the public package quality.
type (
	Prediction = quality.Prediction
	Report     = quality.Report
)
