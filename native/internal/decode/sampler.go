package decode

import (
	"errors"
	"maps"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
)

// sampler picks the next token from logits [1, vocab] as mlx-lm does: bias and penalties on the logits,
// then log-probabilities, then top-p, min-p, XTC and top-k, then a draw at the temperature. Each request
// has a random key of its own, split once a token, so a seeded request does not depend on other requests.
type sampler struct {
	options engine.GenerateOptions
	kernels bool        // logits come from the CPU kernels, in float32
	wide    bool        // some number of the options is too large for float16
	key     *mlxc.Array // kept; nil when greedy
	recent  *mlxc.Array // kept int32 [1, n]: the last RepetitionContext tokens; nil without a penalty
	// biased and bias are kept int32 and float32 [1, n], xtcSpared kept bool [1, vocab]: tokens that XTC
	// must not cut; nil without the option.
	biased, bias, xtcSpared *mlxc.Array
	// drawer, if it is set, draws in one launch what its settings, kept float32 [1, 4], can say; settings are nil where they cannot.
	drawer   decoder.Drawer
	settings *mlxc.Array
}

// drawBy lets one launch do what the options ask for, where it can: all but XTC.
func (sp *sampler) drawBy(s *mlxc.Scope, drawer decoder.Drawer) {
	if o := sp.options; drawer != nil && sp.key != nil && sp.xtcSpared == nil {
		sp.drawer = drawer
		sp.settings = s.Keep(decoder.Drawing{Temperature: o.Temperature, TopP: o.TopP, MinP: o.MinP, TopK: o.TopK}.Settings(s))
	}
}

// inOneLaunch reports whether the drawer draws from such logits.
func (sp *sampler) inOneLaunch(logits *mlxc.Array) bool {
	return sp.settings != nil && logits.DType() == sp.drawer.Draws() && 1/float64(sp.options.Temperature) <= largestInverse(logits.DType())
}

// nextKey is the key of the next draw.
func (sp *sampler) nextKey(s *mlxc.Scope) *mlxc.Array {
	next, use := s.RandomSplit(sp.key)
	hold(s, &sp.key, next)
	return use
}

func newSampler(s *mlxc.Scope, options engine.GenerateOptions, prompt []int32, xtcSpared []int32, vocab int, kernels bool) *sampler {
	sp := &sampler{options: withinRange(options), wide: !options.FitsHalf(), kernels: kernels}
	if options.Temperature > 0 {
		sp.key = s.Keep(s.RandomKey(options.Seed))
		if options.XTCProbability > 0 {
			spared := make([]bool, vocab)
			for _, id := range xtcSpared {
				if id >= 0 && int(id) < vocab { // end tokens come from configs, and need not be tokens of the model
					spared[id] = true
				}
			}
			sp.xtcSpared = s.Keep(s.FromBools(spared, 1, vocab))
		}
	}
	if n := len(options.LogitBias); n > 0 {
		ids := slices.Sorted(maps.Keys(options.LogitBias))
		values := make([]float32, n)
		for i, id := range ids {
			values[i] = clampNumber(options.LogitBias[id])
		}
		sp.biased, sp.bias = s.Keep(s.FromInts(ids, 1, n)), s.Keep(s.FromFloats(values, 1, n))
	}
	if options.RepetitionPenalty != 1 || options.PresencePenalty != 0 || options.FrequencyPenalty != 0 {
		recent := prompt[max(0, len(prompt)-options.RepetitionContext):]
		sp.recent = s.Keep(s.FromInts(recent, 1, len(recent)))
	}
	return sp
}

// hold replaces a kept array by a new one.
func hold(s *mlxc.Scope, slot **mlxc.Array, a *mlxc.Array) {
	if err := (*slot).Free(); err != nil {
		s.Fail(err)
	}
	*slot = s.Keep(a)
}

// observe adds a token [1], which need not be computed yet, to what the penalty looks at.
func (sp *sampler) observe(s *mlxc.Scope, token *mlxc.Array) {
	if sp.recent == nil {
		return
	}
	all := s.Concatenate(1, sp.recent, s.AsType(s.Reshape(token, 1, 1), mlxc.Int32))
	n := all.Dim(1)
	hold(s, &sp.recent, s.Slice(all, 1, max(0, n-sp.options.RepetitionContext), n))
}

// sample returns the token [1] and the log-probabilities [1, vocab] it was chosen by.
func (sp *sampler) sample(s *mlxc.Scope, logits *mlxc.Array) (token, logprobs *mlxc.Array) {
	if sp.wide && logits.DType() == mlxc.Float16 {
		logits = s.AsType(logits, mlxc.Float32)
	}
	if sp.biased != nil {
		logits = s.ScatterAdd(logits, sp.biased, s.AsType(sp.bias, logits.DType()), -1)
	}
	if sp.recent != nil {
		logits = sp.penalise(s, logits)
	}
	logprobs = decoder.LogProbs(s, logits, sp.kernels)
	if sp.key == nil {
		return MostLikely(s, logits, logprobs, sp.kernels), logprobs
	}
	use := sp.nextKey(s)
	if sp.inOneLaunch(logits) {
		return sp.drawer.Draw(s, logits, s.FromInts([]int32{0}, 1), sp.settings, s.Reshape(use, 1, 2)), logprobs
	}
	kept, use := sp.filter(s, logprobs, use)
	return s.Categorical(temper(s, kept, sp.options.Temperature), -1, use), logprobs
}

// largest is a number that any sum or product with logits leaves finite in float32 and bfloat16: larger values of options
// have the same effect.
const largest = 1e30

func clampNumber(v float32) float32 { return max(-largest, min(v, largest)) }

// withinRange bounds the penalties, so that neither they nor what they do to logits becomes infinite: an infinite logit
// makes log-probabilities NaN.
func withinRange(o engine.GenerateOptions) engine.GenerateOptions {
	o.PresencePenalty, o.FrequencyPenalty = clampNumber(o.PresencePenalty), clampNumber(o.FrequencyPenalty)
	o.RepetitionPenalty = max(1/float32(largest), min(o.RepetitionPenalty, largest))
	return o
}

// temper divides log-probabilities by a temperature, in their type as mlx-lm does. Where quotients may become infinite, the
// draw would be one of any tokens: there the best is first shifted to 0, which changes no draw, and float32 is used.
func temper(s *mlxc.Scope, logprobs *mlxc.Array, temperature float32) *mlxc.Array {
	inverse := 1 / float64(temperature)
	if inverse <= largestInverse(logprobs.DType()) {
		return s.Multiply(logprobs, s.Scalar(inverse, logprobs.DType()))
	}
	shifted := s.AsType(s.Subtract(logprobs, s.Max(logprobs, -1, true)), mlxc.Float32)
	return s.Multiply(shifted, s.Scalar(min(inverse, largest), mlxc.Float32))
}

// largestInverse is the largest factor that leaves log-probabilities of a type finite.
func largestInverse(dtype mlxc.DType) float64 {
	if dtype == mlxc.Float16 { // up to 65504
		return 1000
	}
	return largest
}

// MostLikely is the most likely token of each row. mlx-lm looks for it among log-probabilities, which in a narrow type may be
// equal where logits differ; with float32 logits these need not be computed.
func MostLikely(s *mlxc.Scope, logits, logprobs *mlxc.Array, kernels bool) *mlxc.Array {
	if kernels {
		return s.Argmax(logits, -1, false)
	}
	return s.Argmax(logprobs, -1, false)
}

// unchanged reports whether the sampler takes logits as they are.
func (sp *sampler) unchanged() bool { return sp.biased == nil && sp.recent == nil }

// plain reports whether the sampler takes the most likely token of unchanged logits.
func (sp *sampler) plain() bool { return sp.key == nil && sp.unchanged() }

func (sp *sampler) free() error {
	if sp == nil {
		return nil
	}
	return errors.Join(sp.key.Free(), sp.recent.Free(), sp.biased.Free(), sp.bias.Free(), sp.xtcSpared.Free(), sp.settings.Free())
}

// penalise lowers the logits of recent tokens: by the repetition penalty of Keskar et al. 2019
// (arXiv:1909.05858), then by the presence penalty once, then by the frequency penalty as often as each
// occurred.
func (sp *sampler) penalise(s *mlxc.Scope, logits *mlxc.Array) *mlxc.Array {
	o, dtype := sp.options, logits.DType()
	if o.RepetitionPenalty != 1 {
		penalty := s.Scalar(float64(o.RepetitionPenalty), dtype)
		selected := s.TakeAlong(logits, sp.recent, -1)
		changed := s.Where(s.Less(selected, s.Scalar(0, dtype)), s.Multiply(selected, penalty), s.Divide(selected, penalty))
		logits = s.PutAlong(logits, sp.recent, changed, -1)
	}
	if o.PresencePenalty != 0 {
		lowered := s.Subtract(s.TakeAlong(logits, sp.recent, -1), s.Scalar(float64(o.PresencePenalty), dtype))
		logits = s.PutAlong(logits, sp.recent, lowered, -1)
	}
	if o.FrequencyPenalty != 0 {
		loss := s.BroadcastTo(s.Scalar(-float64(o.FrequencyPenalty), dtype), 1, sp.recent.Dim(1))
		logits = s.ScatterAdd(logits, sp.recent, loss, -1)
	}
	return logits
}

// filter sets the log-probabilities of dropped tokens to minus infinity. It returns the key to draw with.
func (sp *sampler) filter(s *mlxc.Scope, logprobs, key *mlxc.Array) (kept, use *mlxc.Array) {
	o := sp.options
	if o.TopP < 1 {
		logprobs = topP(s, logprobs, o.TopP)
	}
	if o.MinP > 0 {
		best := s.Max(logprobs, -1, true)
		least := s.Add(best, s.Scalar(math.Log(float64(o.MinP)), logprobs.DType()))
		logprobs = drop(s, s.Less(logprobs, least), logprobs)
	}
	if sp.xtcSpared != nil {
		var coin *mlxc.Array
		coin, key = s.RandomSplit(key)
		keep := s.Greater(s.Uniform(coin), s.Scalar(float64(o.XTCProbability), mlxc.Float32))
		logprobs = s.Where(keep, logprobs, sp.xtc(s, logprobs))
	}
	if k := o.TopK; k > 0 && k < logprobs.Dim(-1) {
		order := s.Argpartition(s.Negative(logprobs), k-1, -1)
		rest := s.Slice(order, -1, k, order.Dim(-1))
		logprobs = s.PutAlong(logprobs, rest, s.Scalar(math.Inf(-1), logprobs.DType()), -1)
	}
	return logprobs, key
}

// xtc drops every token above the threshold but the least likely of them: "exclude top choices".
func (sp *sampler) xtc(s *mlxc.Scope, logprobs *mlxc.Array) *mlxc.Array {
	probs := s.Softmax(logprobs, -1, false)
	above := s.Greater(probs, s.Scalar(float64(sp.options.XTCThreshold), probs.DType()))
	least := s.Min(s.Where(above, probs, s.Scalar(math.Inf(1), probs.DType())), -1, true)
	return drop(s, s.LogicalAnd(s.Greater(probs, least), s.LogicalNot(sp.xtcSpared)), logprobs)
}

func drop(s *mlxc.Scope, where, logprobs *mlxc.Array) *mlxc.Array {
	return s.Where(where, s.Scalar(math.Inf(-1), logprobs.DType()), logprobs)
}

// topP keeps the smallest set of most likely tokens whose probabilities sum to p (Holtzman et al. 2020,
// arXiv:1904.09751).
func topP(s *mlxc.Scope, logprobs *mlxc.Array, p float32) *mlxc.Array {
	sorted := s.Sort(logprobs, -1)
	probs := s.Exp(s.AsType(sorted, mlxc.Float32))
	above := s.Cumsum(probs, -1, true, false) // mass of the tokens more likely than each
	total := s.Add(s.Slice(above, -1, 0, 1), s.Slice(probs, -1, 0, 1))
	limit := s.Multiply(s.Scalar(float64(p), mlxc.Float32), total)
	dropped := s.Sum(s.AsType(s.GreaterEqual(above, limit), mlxc.Int32), -1, true)
	threshold := s.TakeAlong(sorted, dropped, -1)
	return drop(s, s.Less(logprobs, threshold), logprobs)
}
