package engine

import (
	"fmt"
	"slices"
)

// TrainOptions are those of a LoRA training run. DefaultTrainOptions has mlx-lm's defaults.
type TrainOptions struct {
	Data string // folder with train.jsonl and, for validation, valid.jsonl
	Out  string // folder of the adapter

	Iterations   int     // batches to train on
	BatchSize    int     // examples of a batch
	Accumulate   int     // batches whose gradients are averaged for one update
	LearningRate float64 // of AdamW, after the warm-up
	Schedule     string  // of the learning rate after the warm-up: "constant", "linear" or "cosine", the last two down to 0
	Warmup       int     // updates in which the learning rate rises from 0
	WeightDecay  float64 // of AdamW

	Rank      int      // of the LoRAs
	Scale     float32  // factor of what a LoRA adds
	NumLayers int      // blocks from the last one on; 0 or less is all
	Keys      []string // linear layers of a block, e.g. "self_attn.q_proj"; none is all

	MaskPrompt   bool   // the loss is that of answers only
	MaxSeqLength int    // in tokens; longer examples are cut
	Packed       bool   // several short examples in one row, none of which attends to another
	Exact        bool   // MLX's own ops, in mlx-lm's order: the bits of mlx-lm's tuner on one device, many times as slow on Linux CPUs
	Checkpoint   bool   // keep the states between blocks only and compute what is inside anew: less memory, more time
	Seed         uint64 // of the order of examples and of the LoRAs' first values

	EvalEvery   int  // iterations between validations; 0 for none
	EvalBatches int  // batches of a validation; 0 for all
	SaveEvery   int  // iterations between savings of the adapter and of what Resume needs
	Resume      bool // go on from what an earlier run saved in Out

	Progress func(TrainProgress) // nil for none
}

// DefaultTrainOptions are mlx-lm's.
func DefaultTrainOptions() TrainOptions {
	return TrainOptions{
		Iterations: 1000, BatchSize: 4, Accumulate: 1, LearningRate: 1e-5, Schedule: "constant", WeightDecay: 0.01,
		Rank: 8, Scale: 20, NumLayers: 16, MaxSeqLength: 2048, EvalEvery: 200, EvalBatches: 25, SaveEvery: 100,
	}
}

// Validate returns an error about the first invalid option.
func (o TrainOptions) Validate() error {
	for _, c := range []struct {
		option string
		bad    bool
		reason string
	}{
		{"Data", o.Data == "", "no folder"},
		{"Out", o.Out == "", "no folder"},
		{"Iterations", o.Iterations < 1, fmt.Sprintf("%d is not positive", o.Iterations)},
		{"BatchSize", o.BatchSize < 1, fmt.Sprintf("%d is not positive", o.BatchSize)},
		{"Accumulate", o.Accumulate < 1, fmt.Sprintf("%d is not positive", o.Accumulate)},
		{"LearningRate", !(o.LearningRate > 0), fmt.Sprintf("%v is not positive", o.LearningRate)},
		{"Schedule", !slices.Contains([]string{"constant", "linear", "cosine"}, o.Schedule), fmt.Sprintf("%q is none of constant, linear and cosine", o.Schedule)},
		{"Warmup", o.Warmup < 0, fmt.Sprintf("%d is negative", o.Warmup)},
		{"WeightDecay", !(o.WeightDecay >= 0), fmt.Sprintf("%v is negative", o.WeightDecay)},
		{"Rank", o.Rank < 1, fmt.Sprintf("%d is not positive", o.Rank)},
		{"Scale", !(o.Scale > 0), fmt.Sprintf("%v is not positive", o.Scale)},
		{"MaxSeqLength", o.MaxSeqLength < 2, fmt.Sprintf("%d leaves nothing to predict", o.MaxSeqLength)},
		{"EvalEvery", o.EvalEvery < 0, fmt.Sprintf("%d is negative", o.EvalEvery)},
		{"EvalBatches", o.EvalBatches < 0, fmt.Sprintf("%d is negative", o.EvalBatches)},
		{"SaveEvery", o.SaveEvery < 0, fmt.Sprintf("%d is negative", o.SaveEvery)},
	} {
		if c.bad {
			return &OptionError{Option: c.option, Reason: c.reason}
		}
	}
	return nil
}

// TrainProgress is passed to TrainOptions.Progress after each iteration and each validation.
type TrainProgress struct {
	Iteration    int     `json:"iteration"`
	Loss         float64 `json:"loss"`                 // of the iteration's batch
	Validation   float64 `json:"validation,omitempty"` // loss on valid.jsonl, if this is a validation
	LearningRate float64 `json:"learning_rate"`
	Tokens       int64   `json:"tokens"` // trained on since the start
	Seconds      float64 `json:"seconds"`
	ActiveBytes  int64   `json:"active_bytes"`
	PeakBytes    int64   `json:"peak_bytes"`
}

// TrainResult is the outcome of a run.
type TrainResult struct {
	Iterations int
	Parameters int64     // that were trained
	Losses     []float64 // of every iteration of this run
	Validation []float64
}
