package engine

import (
	"context"
	"fmt"
)

// NativeOptions are the settings of a model in the native engine.
type NativeOptions struct {
	Batch        int    // largest number of streams in one pass; 0 for 32
	PromptCache  int64  // bytes of KV kept for prompts that begin like earlier ones; 0 for none
	Exact        bool   // MLX's own ops only, in mlx-lm's order
	Adapter      string // folder of a LoRA adapter; "" for none
	Draft        string // folder of a model that proposes tokens; "" for none
	MemoryBudget int64  // bytes of MLX memory, weights included; 0 for no limit
	// QuantizedGGUF keeps the weights of a GGUF file quantised also where MLX's own ops run on a CPU. Without it they are unpacked there,
	// because those ops are many times as fast with plain weights.
	QuantizedGGUF bool
	Threads       int // of the CPU kernels, in the whole process; 0 for GO_MLX_THREADS or GOMAXPROCS
	// MakeRoom is called for a request that lacks so many bytes of the budget while no other request runs. It gives back what else is held
	// and not used, and reports whether there was anything; then the request is tried again. nil if there never is.
	MakeRoom func(ctx context.Context, bytes int64) bool
}

// Validate checks the options.
func (o NativeOptions) Validate() error {
	switch {
	case o.Batch < 0:
		return &OptionError{Option: "Batch", Reason: fmt.Sprintf("%d is negative", o.Batch)}
	case o.PromptCache < 0:
		return &OptionError{Option: "PromptCache", Reason: fmt.Sprintf("%d bytes are fewer than none", o.PromptCache)}
	case o.Threads < 0:
		return &OptionError{Option: "Threads", Reason: fmt.Sprintf("%d is negative", o.Threads)}
	case o.MemoryBudget < 0:
		return &OptionError{Option: "MemoryBudget", Reason: fmt.Sprintf("%d bytes are fewer than none", o.MemoryBudget)}
	}
	return nil
}
