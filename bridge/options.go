package bridge

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Options say how a model's workers run. The zero value is one worker with all defaults.
type Options struct {
	Python string // interpreter; see FindPython for the default

	// Workers is how many processes may serve the model; 0 means 1. MinWorkers of them are started with the model and kept; 0 means
	// Workers, or none if IdleTTL is set, and a negative number means none. One is always started, to read the model.
	Workers, MinWorkers int
	// Batch is how many requests one worker computes together; 0 means 32. With 1 it takes them by turns,
	// and a token's bits do not depend on the other requests even where batched kernels round differently.
	Batch int
	// Queue is how many requests may wait when all workers are full; 0 means 1024, and a negative number
	// none. One more gets ErrBusy.
	Queue int
	// IdleTTL ends workers beyond MinWorkers that had no work for so long; 0 keeps them.
	IdleTTL time.Duration
	// StallTimeout is how long a busy worker may make no progress before it counts as hung; 0 means two
	// minutes. It is about progress, not about how long a request takes.
	StallTimeout time.Duration
	// PromptCache is how many bytes of KV each worker may keep for later requests with the same beginning;
	// 0 keeps none.
	PromptCache int64

	// Devices are what the workers compute on, spread evenly: "cpu", "gpu", or "gpu:N" for one of several CUDA GPUs. Without any
	// it is MLX's default device.
	Devices []string
	// Dir is the workers' working directory; empty for the folder of their own source. Nothing is imported from it.
	Dir string
	// Environment holds variables for the workers, NAME=value, besides those that docs/supervisor.md lists, and in their place where
	// the names are the same.
	Environment []string

	Adapter         string // folder of a LoRA adapter
	Draft           string // folder of a draft model for speculative decoding
	TrustRemoteCode bool   // let the checkpoint's own Python code run
	Online          bool   // let Hugging Face's libraries use the network

	// QuarantineDir takes the repro files of requests that ended two workers; empty for go-mlx/quarantine
	// in the user's cache folder.
	QuarantineDir string
	// Logger is told of workers that start and end, and at level Debug what they print; nil for none.
	Logger *slog.Logger
	// Events is told of loading and restarts, on a goroutine of its own, one event after the other.
	Events func(engine.Event)
}

// FirstWorkers is how many workers are started with the model.
func (o Options) FirstWorkers() int {
	if o.MinWorkers == 0 && o.IdleTTL == 0 {
		return max(1, o.Workers)
	}
	return max(1, o.MinWorkers) // a negative number means none
}

// withDefaults checks the options and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	bad := func(option, format string, args ...any) (Options, error) {
		return o, &engine.OptionError{Option: option, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case o.Workers < 0:
		return bad("Workers", "%d is negative", o.Workers)
	case o.MinWorkers > max(1, o.Workers):
		return bad("MinWorkers", "%d are more than Workers, which is %d", o.MinWorkers, max(1, o.Workers))
	case o.Batch < 0 || o.Batch > 1024:
		return bad("Batch", "%d is not between 1 and 1024", o.Batch)
	case o.IdleTTL < 0:
		return bad("IdleTTL", "%v is negative", o.IdleTTL)
	case o.StallTimeout < 0:
		return bad("StallTimeout", "%v is negative", o.StallTimeout)
	case o.PromptCache < 0:
		return bad("PromptCache", "%d is negative", o.PromptCache)
	}
	for _, device := range o.Devices {
		if !isDevice(device) {
			return bad("Devices", "%q is none; there are cpu, gpu and gpu:N", device)
		}
	}
	for _, entry := range o.Environment {
		if name, _, ok := strings.Cut(entry, "="); !ok || name == "" || strings.ContainsRune(entry, 0) {
			return bad("Environment", "%q is not of the form NAME=value", entry)
		}
	}
	if o.Dir != "" {
		info, err := os.Stat(o.Dir)
		if err != nil {
			return bad("Dir", "%v", err)
		}
		if !info.IsDir() {
			return bad("Dir", "%s is not a folder", o.Dir)
		}
	}
	o.Workers = max(1, o.Workers)
	if o.MinWorkers == 0 && o.IdleTTL == 0 {
		o.MinWorkers = o.Workers
	}
	o.MinWorkers = max(0, o.MinWorkers)
	orDefault(&o.Batch, 32)
	orDefault(&o.Queue, 1024)
	o.Queue = max(0, o.Queue)
	orDefault(&o.Logger, slog.New(slog.DiscardHandler))
	orDefault(&o.StallTimeout, 2*time.Minute)
	orDefault(&o.QuarantineDir, filepath.Join(cacheDir(), "quarantine"))
	for _, path := range []*string{&o.Adapter, &o.Draft, &o.Dir} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, nil
}

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}
