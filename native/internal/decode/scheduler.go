// Package decode generates: a scheduler computes the streams of a model together, a sampler draws their tokens, and their readers get text.
package decode

import (
	"errors"
	"slices"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
)

// Scheduler is the streams of a model. What it holds belongs to the owner thread, but for the numbers at the end.
type Scheduler struct {
	*decoder.Network
	*prompt.Encoder
	draft *decoder.Network // proposes tokens; nil without
	store *kv.Store
	keeps bool // KV is kept for later requests
	exact bool // passes must be those of mlx-lm
	batch int  // how many streams one pass takes

	Streams  []*Stream // under way, in the order they came
	Batches  []*decodeBatch
	Batching bool     // streams share KV buffers: on a GPU
	endings  []ending // streams that ended in the pass under way
	rounded  int

	pumping atomic.Bool  // the scheduler runs
	kicks   atomic.Int64 // grows when a stream may have something to do
}

// NewScheduler makes a scheduler without streams. draft is nil without a draft model.
func NewScheduler(n *decoder.Network, e *prompt.Encoder, draft *decoder.Network, store *kv.Store, options engine.NativeOptions) *Scheduler {
	return &Scheduler{
		Network: n, Encoder: e, draft: draft, store: store, keeps: options.PromptCache > 0, exact: options.Exact, batch: options.Batch,
		Batching: n.Lease.Device().Name == "gpu",
	}
}

// Close frees the streams under way.
func (sc *Scheduler) Close() error {
	if sc == nil {
		return nil
	}
	var errs []error
	for _, st := range slices.Clone(sc.Streams) { // freeing one takes it out
		errs = append(errs, st.Free(false))
	}
	return errors.Join(errs...)
}

// Bytes is the KV of the streams under way.
func (sc *Scheduler) Bytes() int64 {
	var n int64
	for _, st := range sc.Streams {
		n += st.State.Bytes() + st.draft.bytes()
	}
	for _, b := range sc.Batches {
		n += b.bytes()
	}
	return n
}
