"""Drawing tokens: mlx-lm's filters in mlx-lm's order, with random keys of the request's own."""

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    apply_xtc,
    greedy_sampler,
    make_logits_processors,
)


# A number that keeps sums and products with logits finite in float32 and bfloat16; larger values of options have the same effect.
LARGEST = 1e30


def temper(logprobs, temperature):
    """Log-probabilities divided by a temperature. Where quotients may become infinite, the draw would be one of any tokens:
    there the best is first shifted to 0, which changes no draw, and float32 is used. As the native engine does."""
    inverse = 1.0 / temperature
    if inverse <= (1000 if logprobs.dtype == mx.float16 else LARGEST):
        return logprobs * inverse
    shifted = (logprobs - mx.max(logprobs, axis=-1, keepdims=True)).astype(mx.float32)
    return shifted * min(inverse, LARGEST)


class Keys:
    """The key of every position of one request: split once a token from the seed on, so that a token
    depends on the seed and its place, not on what else the worker draws."""

    def __init__(self, seed):
        self._key, self._next, self._uses = mx.random.key(seed), 0, {}
        self._first = 0

    def at(self, position):
        while self._next <= position:
            self._key, use = mx.random.split(self._key)
            if self._next >= self._first:
                self._uses[self._next] = use
            self._next += 1
            if self._next % 256 == 0:
                mx.eval(self._key)  # a stream that goes on far from its start must not build one long graph
        return self._uses[position]

    def forget_before(self, position):
        for old in [p for p in self._uses if p < position]:
            del self._uses[old]
        self._first = max(self._first, position)


class Sampler:
    """A request's sampler: called with log-probabilities [1, vocab] for one position after the other.

    mlx-lm draws from one global random state, by which a seeded request would depend on the other requests.
    The tokens of replay are given out again, whatever the log-probabilities are."""

    def __init__(self, request, special_tokens, replay):
        self._temperature = request["temperature"]
        self._top_p, self._min_p, self._top_k = request["top_p"], request["min_p"], request["top_k"]
        self._xtc = (request["xtc_probability"], request["xtc_threshold"], special_tokens)
        self._replay = replay
        self._keys, self._position = Keys(request["seed"]), 0

    def __call__(self, logprobs):
        self.forget_before(self._position)
        token = self.draw(logprobs, self._position)
        self._position += 1
        return token

    def forget_before(self, position):
        self._keys.forget_before(position)

    def draw(self, logprobs, position):
        """The token [1] of one position, from log-probabilities [1, vocab]."""
        if position < len(self._replay):
            return mx.array(self._replay[position : position + 1], mx.uint32)
        if self._temperature == 0:
            return greedy_sampler(logprobs)
        if self._top_p < 1:
            logprobs = apply_top_p(logprobs, self._top_p)
        if self._min_p > 0:
            logprobs = apply_min_p(logprobs, self._min_p)
        key = self._keys.at(position)
        if self._xtc[0] > 0:
            # At probability 1 apply_xtc always cuts; the coin whether to cut is the request's own.
            probability, threshold, special = self._xtc
            coin, key = mx.random.split(key)
            cut = apply_xtc(logprobs, 1.0, threshold, special)
            logprobs = mx.where(mx.random.uniform(key=coin) > probability, logprobs, cut)
        if 0 < self._top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, self._top_k)
        return mx.random.categorical(temper(logprobs, self._temperature), key=key)


class SpeculativeSampler:
    """A sampler for mlx-lm's speculative decoding: draft and target model draw a position with the same
    key. So the target's tokens are those of plain decoding, and a good draft draws the same ones.

    A round draws up to n positions with the draft, then the same and one more with the target.
    made() is the number of tokens that the stream has."""

    def __init__(self, sampler, drafts, max_tokens, made):
        self._sampler, self._drafts, self._max_tokens, self._made = sampler, drafts, max_tokens, made
        self._base, self._calls = -1, 0

    def __call__(self, logprobs):
        made = self._made()
        if made != self._base:
            self._base, self._calls = made, 0
            self._sampler.forget_before(made)
        drafts = min(self._max_tokens - made, self._drafts)
        rows = logprobs.shape[0]
        if self._calls < drafts:
            first = made + self._calls  # the draft's turn
        else:
            first = made + self._calls - drafts
        self._calls += rows
        return mx.concatenate([self._sampler.draw(logprobs[i : i + 1], first + i) for i in range(rows)])


def make_sampler(request, special_tokens, replay):
    # One object for all greedy requests: a batch that shares its sampler samples in one call.
    if request["temperature"] == 0 and not replay:
        return greedy_sampler
    return Sampler(request, special_tokens, replay)


def clamp(value):
    return max(-LARGEST, min(value, LARGEST))


def make_processors(request):
    bias = {int(token): clamp(value) for token, value in request["logit_bias"]}
    penalty = max(1 / LARGEST, min(request["repetition_penalty"], LARGEST))
    presence, frequency = clamp(request["presence_penalty"]), clamp(request["frequency_penalty"])
    context = min(request["repetition_context"], 1 << 30)  # more than any model has; MLX's indices have 32 bits
    processors = make_logits_processors(
        logit_bias=bias or None,
        repetition_penalty=penalty if penalty != 1 else None,
        repetition_context_size=context,
        presence_penalty=presence or None,
        presence_context_size=context,
        frequency_penalty=frequency or None,
        frequency_context_size=context,
    )
    # Logits beyond float16's 65504 would be infinite, and their log-probabilities NaN. The bounds are those of the
    # native engine (GenerateOptions.FitsHalf).
    most = max([abs(presence), abs(frequency) * context, *map(abs, bias.values())])
    if most > 8192 or not 1 / 64 <= penalty <= 64:
        processors.insert(0, lambda _, logits: logits.astype(mx.float32) if logits.dtype == mx.float16 else logits)
    return processors
