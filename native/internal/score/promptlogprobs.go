package score

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
)

// maxLogitBytes bounds the float32 logits of one pass over a prompt all of whose positions count: those of a chunk are some
// 500 MB with the largest vocabularies.
const maxLogitBytes = 64 << 20

// PromptLogProbs gives the tokens of a prompt their log-probabilities; see engine.Engine. The prompt goes through the model in
// chunks, as for generation, and other requests go on between two of them.
func (sc *Scorer) PromptLogProbs(ctx context.Context, ids []int32, top int) ([]engine.Token, error) {
	if err := sc.CheckOpen(ctx); err != nil {
		return nil, err
	}
	if err := sc.CheckCausal("log-probabilities of a prompt"); err != nil {
		return nil, err
	}
	if err := engine.CheckTop(top, sc.Shape.VocabSize); err != nil {
		return nil, err
	}
	if err := sc.CheckIDs(ids); err != nil {
		return nil, err
	}
	defer sc.Begin()()
	out := make([]engine.Token, len(ids))
	for i, id := range ids {
		out[i].ID = id
	}
	if len(ids) == 1 {
		return out, nil
	}
	if err := sc.InTurn(ctx, nil, func(func()) (bool, error) { return true, sc.scorePrompt(ctx, out, top) }); err != nil {
		return nil, err
	}
	return out, nil
}

// scorePrompt fills in the log-probabilities of all tokens but the first.
func (sc *Scorer) scorePrompt(ctx context.Context, tokens []engine.Token, top int) error {
	ids := make([]int32, len(tokens)-1) // what follows the last token is not asked for
	for i := range ids {
		ids[i] = tokens[i].ID
	}
	step := max(1, maxLogitBytes/4/sc.Shape.VocabSize)
	st, err := sc.inChunks(ctx, ids, step, func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		for begin := 0; begin < h.Dim(1); begin += step {
			end := min(begin+step, h.Dim(1))
			if err := sc.addLogProbs(s, s.Slice(h, 1, begin, end), tokens[from+begin+1:][:end-begin], top); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return sc.forget(st)
}

// addLogProbs fills in the log-probabilities of tokens, given the states [1, n, hidden] of those before each.
func (sc *Scorer) addLogProbs(parent *mlxc.Scope, h *mlxc.Array, tokens []engine.Token, top int) error {
	s := parent.Child() // so that the logits of a part are freed before those of the next
	return errors.Join(sc.readLogProbs(s, h, tokens, top), s.Close())
}

func (sc *Scorer) readLogProbs(s *mlxc.Scope, h *mlxc.Array, tokens []engine.Token, top int) error {
	next := make([]int32, len(tokens))
	for i, t := range tokens {
		next[i] = t.ID
	}
	logprobs := s.Squeeze(decoder.LogSoftmax(s, sc.Arch.Logits(s, h)), 0)
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
	best, probs := decoder.BestTokens(s, logprobs, top)
	bestIDs, err := best.Ints()
	if err != nil {
		return err
	}
	bestValues, err := probs.Floats()
	if err != nil {
		return err
	}
	for i := range tokens {
		tokens[i].TopLogProbs = decoder.SortedLogProbs(bestIDs[i*top:(i+1)*top], bestValues[i*top:(i+1)*top])
	}
	return nil
}
