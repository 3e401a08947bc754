"""A stream that is alone in its batch.

A batch of one row pays for what only a batch needs: masks, padding, an array for each row. That shows where
the host is what a small step waits for, as on a GPU (docs/performance.md)."""

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import TokenBuffer

CLEAR_EVERY = 256  # tokens between two clearings of MLX's buffer cache, as in mlx-lm


class Paused:
    """A stream between two tokens, out of the batch: the KV of ids, and the token that was drawn next."""

    def __init__(self, cache, ids, token, logprobs):
        self.cache, self.ids, self.token, self.logprobs = cache, ids, token, logprobs


class Lone:
    """Steps one stream as generate_step does, one token ahead; pause gives the state at any time."""

    def __init__(self, model, stream, paused):
        self.stream = stream
        self._model, self._cache, self._ids = model, paused.cache, paused.ids
        self._token, self._logprobs = mx.array([paused.token], mx.uint32), paused.logprobs
        self._context = TokenBuffer(paused.ids) if stream.processors else None

    def step(self):
        """The next token's message, or None for a replayed one."""
        token, logprobs = self._token, self._logprobs
        with mx.stream(generation_stream):
            logits = self._model(token[None], cache=self._cache)[:, -1, :]
            if self._context is not None:
                context = self._context.update_and_fetch(token)
                for processor in self.stream.processors:
                    logits = processor(context, logits)
            following = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            self._token, self._logprobs = self.stream.sampler(following), following.squeeze(0)
            mx.async_eval(self._token, self._logprobs)
            mx.eval(token)
        self._ids.append(token.item())
        if len(self._ids) % CLEAR_EVERY == 0:
            mx.clear_cache()
        return self.stream.take(self._ids[-1], logprobs)

    def pause(self):
        return Paused(self._cache, self._ids, self._token.item(), self._logprobs)

    def kept(self):
        """The ids whose KV there is, and the KV."""
        return self._ids, self._cache
