package native

import (
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// The memory budget: what a pass will allocate is estimated before it, from above, and asked for here.

// reserve returns nil if so many more bytes fit into the budget, giving back KV that is only kept for
// later requests if that is needed. Without a budget nothing is estimated: passes of one token come here.
func (m *Model) reserve(what string, estimate func() int64) error {
	budget := m.options.MemoryBudget
	if budget == 0 {
		return nil
	}
	bytes, used := estimate(), int64(0)
	for _, release := range []func() error{
		func() error { return nil },
		func() error { return m.prompts.shrink(m.prompts.bytes / 2) },
		func() error { return m.prompts.shrink(0) },
		func() error { return m.prefixes.free() },
	} {
		if err := release(); err != nil {
			return err
		}
		memory, err := mlxc.ReadMemory()
		if err != nil {
			return err
		}
		if used = int64(memory.Active); used+bytes <= budget {
			return nil
		}
	}
	return &engine.BudgetError{What: what, Needed: bytes, Used: used, Budget: budget, Pinned: used}
}

// kvBytes is what the caches of a state allocate for a pass over tokens.
func (n *network) kvBytes(st *decodeState, tokens int) int64 {
	positions := 0
	for _, c := range st.caches {
		positions += c.Room(tokens)
	}
	return int64(positions) * n.positionBytes()
}

// positionBytes is the keys and values of one position in one layer.
func (n *network) positionBytes() int64 {
	return 2 * int64(n.shape.kvHeads*n.shape.headDim) * n.element
}

// scoreBytes is what a batch of a classification holds at its widest: rows of up to width tokens behind a prefix, whose
// labels may go on for up to longest tokens in passes of maxBatchRows rows of their own. See batchSize for the bounds.
func (n *network) scoreBytes(prefix, width, longest int) int64 {
	each := prefix + width + longest
	positions := max(each, min(maxBatchRows*each, maxBatchPositions+maxBatchRows*longest)) * len(n.shape.windows)
	tokens := max(width, min(maxBatchRows*width, maxBatchTokens), maxBatchRows*longest)
	return 2*int64(positions)*n.positionBytes() + n.passBytes(tokens, each, maxBatchRows)
}

// passBytes is what a pass holds at its widest, besides KV. It is an estimate from above: 24 bytes for each
// element that a layer makes of a token, because MLX has the results of about six ops in flight and
// widens some of them (measured on the CPU: 23 bytes with chunks of 100 to 512 tokens), attention scores in
// float32 over past positions where the back end makes them, and logits in float32 for some of the rows.
func (n *network) passBytes(tokens, past, logitRows int) int64 {
	return n.layerBytes(tokens) + n.attentionBytes(tokens, past+tokens) + 12*int64(logitRows)*int64(n.shape.vocabSize)
}

// wideBytes is passBytes for a wideState, which has the scores of one chunk at a time.
func (n *network) wideBytes(tokens int) int64 {
	return n.layerBytes(tokens) + n.attentionBytes(prefillChunk, tokens)
}

func (n *network) layerBytes(tokens int) int64 {
	s := n.shape
	return 24 * int64(tokens) * int64(4*s.hiddenSize+3*s.intermediate+2*(s.heads+2*s.kvHeads)*s.headDim)
}

func (n *network) attentionBytes(queries, keys int) int64 {
	return 4 * int64(n.shape.heads) * int64(queries) * int64(keys)
}
