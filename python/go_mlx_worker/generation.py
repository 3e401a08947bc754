"""One generation: mlx-lm's generate_step with a random key of the request's own."""

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_logits_processors

from .errors import Cancelled, RequestError
from .text import StopMatcher, StreamDecoder

# The native engine's chunk too, so that both compute the same passes.
PREFILL_CHUNK = 512


def make_sampler(temperature, top_p, min_p, top_k, seed):
    """mlx-lm's filters and order, but with a key that is split once a token: mlx-lm draws from one
    global state, by which a seeded request would depend on what runs beside it."""
    if temperature == 0:
        return lambda logprobs: mx.argmax(logprobs, axis=-1)
    key = mx.random.key(seed)

    def sample(logprobs):
        nonlocal key
        if top_p < 1:
            logprobs = apply_top_p(logprobs, top_p)
        if min_p > 0:
            logprobs = apply_min_p(logprobs, min_p)
        if 0 < top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, top_k)
        key, use = mx.random.split(key)
        return mx.random.categorical(logprobs * (1.0 / temperature), key=use)

    return sample


class Generation:
    """An iterator of token messages for one request."""

    def __init__(self, loaded, request, is_cancelled, on_prefill):
        self.id = request["id"]
        self.credit = request["credit"]
        self.made = 0
        self._tokenizer = loaded.tokenizer
        self._is_cancelled, self._on_prefill = is_cancelled, on_prefill
        ids = loaded.prompt_ids(request)
        self._prompt_tokens = len(ids)
        self._max_tokens = request["max_tokens"]
        if loaded.context_length:
            self._max_tokens = min(self._max_tokens, loaded.context_length - len(ids))
        for token in request["stop_tokens"]:
            if loaded.vocab_size and not 0 <= token < loaded.vocab_size:
                raise RequestError(
                    "invalid_option",
                    f"the vocabulary of {loaded.vocab_size} tokens has no id {token}",
                    option="StopTokens",
                )
        self._ends = set(request["stop_tokens"])
        if not request["ignore_eos"]:
            self._ends |= set(loaded.tokenizer.eos_token_ids)
        self._decoder = StreamDecoder(loaded.tokenizer)
        self._matcher = StopMatcher(request["stop"])
        self._logprobs, self._top = request["logprobs"], request["top_logprobs"]
        processors = []
        if request["repetition_penalty"] != 1:
            processors = make_logits_processors(
                repetition_penalty=request["repetition_penalty"],
                repetition_context_size=request["repetition_context"],
            )
        self._steps = generate_step(
            mx.array(ids),
            loaded.model,
            max_tokens=self._max_tokens,
            sampler=make_sampler(
                request["temperature"], request["top_p"], request["min_p"], request["top_k"], request["seed"]
            ),
            logits_processors=processors,
            prefill_step_size=PREFILL_CHUNK,
            prompt_progress_callback=self._progress,
        )

    def _progress(self, done, total):
        if self._is_cancelled(self.id):
            raise Cancelled()
        self._on_prefill(self.id, done, total)

    def step(self):
        """The next token's message; "finish" is set on the last."""
        token, logprobs = next(self._steps)
        self.made += 1
        message = {"t": "token", "id": self.id, "token": token, "text": ""}
        if self._logprobs or self._top:
            message["logprob"] = logprobs[token].astype(mx.float32).item()
        if self._top:
            message["top"] = self._top_logprobs(logprobs)
        stopped = False
        if token in self._ends:
            message["finish"] = "stop"
        else:
            message["text"], stopped = self._matcher.add(self._decoder.add(token))
            if stopped:
                message["finish"] = "stop"
            elif self.made == self._max_tokens:
                message["finish"] = "length"
        if "finish" in message:
            message["prompt_tokens"] = self._prompt_tokens
            if not stopped:
                tail, cut = self._matcher.add(self._decoder.finish())
                message["text"] += tail if cut else tail + self._matcher.finish()
        return message

    def _top_logprobs(self, logprobs):
        k = min(self._top, logprobs.shape[-1])
        ids = mx.argpartition(-logprobs, kth=k - 1, axis=-1)[:k]
        values = logprobs[ids].astype(mx.float32)
        pairs = zip(ids.tolist(), values.tolist())
        return [list(p) for p in sorted(pairs, key=lambda p: (-p[1], p[0]))]

    def close(self):
        self._steps.close()
