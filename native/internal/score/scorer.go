// Package score scores and embeds whole texts: classification by labels, embeddings, and vectors of layers' states.
package score

import (
	"errors"

	lru "github.com/hashicorp/golang-lru/v2"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
)

// maxLabelSets is how many label sets are remembered: callers switch between a few of them.
const maxLabelSets = 16

// Scorer scores and embeds texts. What it holds belongs to the owner thread, but for the label sets.
type Scorer struct {
	*decoder.Network
	*prompt.Encoder
	Embedder  *embedder
	packed    *mlxc.Function // tracePacked, compiled; nil without CUDA kernels
	LabelSets *lru.Cache[string, *labelSet]
	store     *kv.Store
	Scored    []*kv.Sequence // of long texts, between two jobs
}

// NewScorer reads what follows the model in a folder of the Sentence Transformers' layout, and prepares the passes. What it has made before an
// error is returned beside it.
func NewScorer(n *decoder.Network, e *prompt.Encoder, store *kv.Store, dir string) (_ *Scorer, err error) {
	labelSets, err := lru.New[string, *labelSet](maxLabelSets)
	if err != nil {
		return nil, err
	}
	sc := &Scorer{Network: n, Encoder: e, store: store, LabelSets: labelSets}
	if sc.Embedder, err = readEmbedder(dir, n.Weights, n.Shape.HiddenSize); err != nil {
		return sc, err
	}
	if n.CUDA != nil {
		sc.packed, err = n.Lease.Compile(false, sc.tracePacked)
	}
	return sc, err
}

// Close frees what is kept between jobs, and the passes.
func (sc *Scorer) Close() error {
	if sc == nil {
		return nil
	}
	errs := []error{sc.packed.Close()}
	for _, st := range sc.Scored {
		errs = append(errs, owner.Protect(st.Free))
	}
	return errors.Join(errs...)
}

// Bytes is the KV of texts under way.
func (sc *Scorer) Bytes() int64 {
	var n int64
	for _, st := range sc.Scored {
		n += st.Bytes()
	}
	return n
}

// scoreBytes is what a batch of a classification holds at its widest: rows of up to width tokens after a prefix, whose
// labels may go on for up to longest tokens in passes of maxBatchRows rows of their own. See batchSize for the bounds.
func (sc *Scorer) scoreBytes(prefix, width, longest int) int64 {
	each := prefix + width + longest
	positions := max(each, min(maxBatchRows*each, maxBatchPositions+maxBatchRows*longest)) * len(sc.Shape.Windows)
	tokens := max(width, min(maxBatchRows*width, MaxBatchTokens), maxBatchRows*longest)
	return 2*int64(positions)*sc.Shape.PositionBytes() + sc.PassBytes(tokens, each, maxBatchRows)
}
