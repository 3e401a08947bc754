package native

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// maxLogitBytes bounds the float32 logits of one pass over a prompt all of whose positions count: those of a chunk are some
// 500 MB with the largest vocabularies.
const maxLogitBytes = 64 << 20

// PromptLogProbs gives the tokens of a prompt their log-probabilities; see engine.Engine. The prompt goes through the model in
// chunks, as for generation, and other requests go on between two of them.
func (m *Model) PromptLogProbs(ctx context.Context, ids []int32, top int) ([]engine.Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.isClosed() {
		return nil, engine.ErrClosed
	}
	if err := m.checkCausal("log-probabilities of a prompt"); err != nil {
		return nil, err
	}
	if err := engine.CheckTop(top, m.shape.vocabSize); err != nil {
		return nil, err
	}
	if err := m.checkIDs(ids); err != nil {
		return nil, err
	}
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	defer m.counters.active.Add(-1)
	out := make([]engine.Token, len(ids))
	for i, id := range ids {
		out[i].ID = id
	}
	if len(ids) == 1 {
		return out, nil
	}
	// What comes behind the last token nobody asks for.
	st, err := m.inChunks(ctx, ids[:len(ids)-1], func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		step := max(1, maxLogitBytes/4/m.shape.vocabSize)
		for begin := 0; begin < h.Dim(1); begin += step {
			end := min(begin+step, h.Dim(1))
			if err := m.addLogProbs(s, s.Slice(h, 1, begin, end), out[from+begin+1:][:end-begin], top); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, m.forget(st)
}

// addLogProbs fills in the log-probabilities of tokens, given the states [1, n, hidden] of those before each.
func (m *Model) addLogProbs(parent *mlxc.Scope, h *mlxc.Array, tokens []engine.Token, top int) error {
	s := parent.Child() // so that the logits of a part are freed before those of the next
	return errors.Join(m.readLogProbs(s, h, tokens, top), s.Close())
}

func (m *Model) readLogProbs(s *mlxc.Scope, h *mlxc.Array, tokens []engine.Token, top int) error {
	next := make([]int32, len(tokens))
	for i, t := range tokens {
		next[i] = t.ID
	}
	logprobs := s.Squeeze(logSoftmax(s, m.arch.logits(s, h)), 0)
	values, err := s.TakeAlong(logprobs, s.FromInts(next, len(next), 1), -1).Floats()
	if err != nil {
		return err
	}
	for i := range tokens {
		tokens[i].LogProb = values[i]
	}
	if top == 0 {
		return nil
	}
	best, probs := bestTokens(s, logprobs, top)
	bestIDs, err := best.Ints()
	if err != nil {
		return err
	}
	bestValues, err := probs.Floats()
	if err != nil {
		return err
	}
	for i := range tokens {
		tokens[i].TopLogProbs = sortedLogProbs(bestIDs[i*top:(i+1)*top], bestValues[i*top:(i+1)*top])
	}
	return nil
}
