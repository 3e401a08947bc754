package native

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/metal"
)

// sampler picks the next token from logits [1, vocab] as mlx-lm does: penalty on the logits, then
// log-probabilities, then top-p, min-p and top-k, then a draw at the temperature. Each request has a
// random key of its own, split once a token, so a seeded request does not depend on other requests.
type sampler struct {
	options engine.GenerateOptions
	key     *metal.Array // kept; nil when greedy
	recent  *metal.Array // kept int32 [1, n]: the last RepetitionContext tokens; nil without a penalty
}

func newSampler(s *metal.Scope, options engine.GenerateOptions, prompt []int32) *sampler {
	sp := &sampler{options: options}
	if options.Temperature > 0 {
		sp.key = s.Keep(s.RandomKey(options.Seed))
	}
	if options.RepetitionPenalty != 1 {
		recent := prompt[max(0, len(prompt)-options.RepetitionContext):]
		sp.recent = s.Keep(s.FromInts(recent, 1, len(recent)))
	}
	return sp
}

// hold replaces a kept array by a new one.
func hold(s *metal.Scope, slot **metal.Array, a *metal.Array) {
	if err := (*slot).Free(); err != nil {
		s.Fail(err)
	}
	*slot = s.Keep(a)
}

// observe adds a token [1], which need not be computed yet, to what the penalty looks at.
func (sp *sampler) observe(s *metal.Scope, token *metal.Array) {
	if sp.recent == nil {
		return
	}
	all := s.Concatenate(1, sp.recent, s.AsType(s.Reshape(token, 1, 1), metal.Int32))
	n := all.Dim(1)
	hold(s, &sp.recent, s.Slice(all, 1, max(0, n-sp.options.RepetitionContext), n))
}

// sample returns the token [1] and the log-probabilities [1, vocab] it was chosen by.
func (sp *sampler) sample(s *metal.Scope, logits *metal.Array) (token, logprobs *metal.Array) {
	if sp.recent != nil {
		logits = sp.penalise(s, logits)
	}
	logprobs = s.Subtract(logits, s.LogSumExp(logits, -1, true))
	if sp.key == nil {
		return s.Argmax(logprobs, -1, false), logprobs
	}
	kept := sp.filter(s, logprobs)
	next, use := s.RandomSplit(sp.key)
	hold(s, &sp.key, next)
	scaled := s.Multiply(kept, s.Scalar(1/float64(sp.options.Temperature), kept.DType()))
	return s.Categorical(scaled, -1, use), logprobs
}

func (sp *sampler) free() error { return errors.Join(sp.key.Free(), sp.recent.Free()) }

// penalise is the repetition penalty of Keskar et al. 2019 (arXiv:1909.05858).
func (sp *sampler) penalise(s *metal.Scope, logits *metal.Array) *metal.Array {
	penalty := s.Scalar(float64(sp.options.RepetitionPenalty), logits.DType())
	selected := s.TakeAlong(logits, sp.recent, -1)
	zero := s.Scalar(0, logits.DType())
	changed := s.Where(s.Less(selected, zero), s.Multiply(selected, penalty), s.Divide(selected, penalty))
	return s.PutAlong(logits, sp.recent, changed, -1)
}

// filter sets the log-probabilities of dropped tokens to minus infinity.
func (sp *sampler) filter(s *metal.Scope, logprobs *metal.Array) *metal.Array {
	o := sp.options
	if o.TopP < 1 {
		logprobs = topP(s, logprobs, o.TopP)
	}
	if o.MinP > 0 {
		best := s.Max(logprobs, -1, true)
		least := s.Add(best, s.Scalar(math.Log(float64(o.MinP)), logprobs.DType()))
		logprobs = drop(s, s.Less(logprobs, least), logprobs)
	}
	if k := o.TopK; k > 0 && k < logprobs.Dim(-1) {
		order := s.Argpartition(s.Negative(logprobs), k-1, -1)
		rest := s.Slice(order, -1, k, order.Dim(-1))
		logprobs = s.PutAlong(logprobs, rest, s.Scalar(math.Inf(-1), logprobs.DType()), -1)
	}
	return logprobs
}

func drop(s *metal.Scope, where, logprobs *metal.Array) *metal.Array {
	return s.Where(where, s.Scalar(math.Inf(-1), logprobs.DType()), logprobs)
}

// topP keeps the smallest set of most likely tokens whose probabilities sum to p (Holtzman et al. 2020,
// arXiv:1904.09751).
func topP(s *metal.Scope, logprobs *metal.Array, p float32) *metal.Array {
	sorted := s.Sort(logprobs, -1)
	probs := s.Exp(s.AsType(sorted, metal.Float32))
	above := s.Cumsum(probs, -1, true, false) // mass of the tokens more likely than each
	total := s.Add(s.Slice(above, -1, 0, 1), s.Slice(probs, -1, 0, 1))
	limit := s.Multiply(s.Scalar(float64(p), metal.Float32), total)
	dropped := s.Sum(s.AsType(s.GreaterEqual(above, limit), metal.Int32), -1, true)
	threshold := s.TakeAlong(sorted, dropped, -1)
	return drop(s, s.Less(logprobs, threshold), logprobs)
}

// bestTokens is the k most likely tokens in no order: ids uint32 [1, k] and their log-probabilities
// float32 [1, k].
func bestTokens(s *metal.Scope, logprobs *metal.Array, k int) (ids, values *metal.Array) {
	k = min(k, logprobs.Dim(-1))
	order := s.Argpartition(s.Negative(logprobs), k-1, -1)
	ids = s.Contiguous(s.Slice(order, -1, 0, k))
	return ids, s.AsType(s.TakeAlong(logprobs, ids, -1), metal.Float32)
}

// sortedLogProbs pairs ids with values, best first.
func sortedLogProbs(ids []int64, values []float32) []engine.TokenLogProb {
	out := make([]engine.TokenLogProb, len(ids))
	for i := range out {
		out[i] = engine.TokenLogProb{ID: int32(ids[i]), LogProb: values[i]}
	}
	slices.SortFunc(out, func(a, b engine.TokenLogProb) int {
		return cmp.Or(cmp.Compare(b.LogProb, a.LogProb), cmp.Compare(a.ID, b.ID))
	})
	return out
}
