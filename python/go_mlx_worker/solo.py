"""A stream by itself, by mlx-lm's own generators: drafts, quantised KV and bounded KV."""

import mlx.core as mx
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache
from mlx_lm.sample_utils import greedy_sampler

from .alone import PREFILL_CHUNK
from .errors import RequestError
from .sampling import SpeculativeSampler

# Tokens that a draft proposes at a time unless the request says otherwise; mlx-lm's own default.
DRAFT_TOKENS = 3


class Solo:
    """Steps one stream with mlx-lm's generate_step, or with its speculative form if there is a draft."""

    def __init__(self, loaded, stream, put):
        self.stream = stream

        def on_prefill(done, total):
            stream.report(put, done, total)
            stream.check()

        o = stream.options
        common = dict(
            max_tokens=stream.max_tokens,
            logits_processors=stream.processors,
            prefill_step_size=PREFILL_CHUNK,
        )
        if o["kv_bits"]:
            _check_quantizable(loaded)
            common |= dict(
                kv_bits=o["kv_bits"], kv_group_size=o["kv_group_size"], quantized_kv_start=o["kv_start"]
            )
        prompt = mx.array(stream.prompt)
        if drafts(loaded, o):
            if o["max_kv_size"]:
                raise RequestError("invalid_option", "goes without a draft model only", option="MaxKVSize")
            count = o["draft_tokens"] or DRAFT_TOKENS
            _check_trimmable(loaded, len(stream.prompt) + stream.max_tokens + count)
            sampler = stream.sampler
            if sampler is not greedy_sampler:
                sampler = SpeculativeSampler(sampler, count, stream.max_tokens, lambda: stream.made)
            # Here, and only here, mlx-lm leaves the prompt out of what penalties see.
            before = prompt[:-1]
            common["logits_processors"] = [
                lambda tokens, logits, p=p: p(mx.concatenate([before, tokens]), logits) for p in stream.processors
            ]
            steps = speculative_generate_step(
                prompt, loaded.model, loaded.draft, num_draft_tokens=count, sampler=sampler, **common
            )
            self._steps = ((token, logprobs) for token, logprobs, _ in steps)
            self._inner = steps
            return
        if o["max_kv_size"]:
            if hasattr(loaded.model, "make_cache"):
                raise RequestError(
                    "invalid_option", "this architecture sets the size of its caches itself", option="MaxKVSize"
                )
            common["max_kv_size"] = o["max_kv_size"]
        self._steps = self._inner = generate_step(
            prompt,
            loaded.model,
            sampler=stream.sampler,
            prompt_progress_callback=on_prefill,
            **common,
        )

    @property
    def prefilling(self):
        return self.stream.made == 0

    def step(self, put):
        token, logprobs = next(self._steps)
        self.stream.give(put, int(token), logprobs)

    def close(self):
        self._inner.close()
        mx.clear_cache()


def drafts(loaded, request):
    """Whether a draft model proposes tokens; a negative number of them asks for decoding without it."""
    return loaded.draft is not None and request["draft_tokens"] >= 0


def needs_solo(loaded, request):
    return bool(drafts(loaded, request) or request["kv_bits"] or request["max_kv_size"])


def check_options(loaded, request):
    """Refuses options that need what this model was not loaded with."""
    if request["draft_tokens"] > 0 and loaded.draft is None:
        raise RequestError(
            "invalid_option", "the model was loaded without a draft model", option="DraftTokens"
        )


def _check_quantizable(loaded):
    for cache in make_prompt_cache(loaded.model):
        if isinstance(cache, RotatingKVCache) or not hasattr(cache, "to_quantized"):
            raise RequestError(
                "invalid_option",
                f"mlx-lm cannot quantise the {type(cache).__name__} of this architecture",
                option="QuantizedKV",
            )


def _check_trimmable(loaded, tokens):
    """mlx-lm takes rejected drafts back out of the cache, which a sliding window cannot do once it is
    full; it does not notice, and goes on with a wrong cache."""
    for cache in make_prompt_cache(loaded.model) + make_prompt_cache(loaded.draft):
        if not cache.is_trimmable():
            raise RequestError(
                "invalid_option",
                f"mlx-lm cannot take drafts back out of a {type(cache).__name__}",
                option="DraftModel",
            )
        window = getattr(cache, "max_size", None)
        if window and tokens > window:
            raise RequestError(
                "invalid_option",
                f"prompt, limit and drafts are {tokens} tokens; beyond the sliding window of {window} mlx-lm "
                "cannot take drafts back",
                option="DraftModel",
            )
