"""A stream in passes of its own.

It is what mlx-lm's generate_step computes, bit for bit. A batch of one row would pay for what only a batch needs: masks,
padding, an array for each row. A stream can go from here into the batch and back between any two tokens."""

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import TokenBuffer, make_prompt_cache

# Tokens of a prompt in one pass; the native engine's chunk too, so that both compute the same passes.
PREFILL_CHUNK = 512
CLEAR_EVERY = 256  # tokens between two clearings of MLX's buffer cache, as in mlx-lm


class Alone:
    """Steps one stream. It is one token ahead: the KV of ids is there, and the next token is drawn but not given out."""

    def __init__(self, loaded, stream, cache=None, ids=(), token=None, logprobs=None):
        """Without a token the prompt is still to be computed."""
        self.stream = stream
        self.ids, self.cache = list(ids), cache
        self.logprobs = logprobs
        self._model = loaded.model
        if self.cache is None:
            self.cache = make_prompt_cache(self._model)
        self._token = None if token is None else mx.array([token], mx.uint32)
        self._context = TokenBuffer(self.ids) if stream.processors and token is not None else None

    @property
    def prefilling(self):
        return self._token is None

    @property
    def token(self):
        return self._token.item()

    def step(self, put):
        """The next chunk of the prompt, or the next token."""
        if self._token is None and not self._prefill(put):
            return
        stream, token, logprobs = self.stream, self._token, self.logprobs
        if stream.made + 1 < stream.max_tokens:
            self._advance(token)
        mx.eval(token)
        value = token.item()
        if stream.made + 1 < stream.max_tokens:
            self.ids.append(value)
            if len(self.ids) % CLEAR_EVERY == 0:
                mx.clear_cache()
        stream.give(put, value, logprobs)

    def _prefill(self, put):
        """One chunk; True when the first token is drawn."""
        prompt, done = self.stream.prompt, len(self.ids)
        self.stream.report(put, done)
        if len(prompt) - done > 1:
            chunk = prompt[done : min(done + PREFILL_CHUNK, len(prompt) - 1)]
            with mx.stream(generation_stream):
                self._model(mx.array([chunk], mx.uint32), cache=self.cache)
                mx.eval([c.state for c in self.cache])
            self.ids += chunk
            mx.clear_cache()
            if len(self.ids) < len(prompt) - 1:
                return False
        self._context = TokenBuffer(self.ids) if self.stream.processors else None
        self._advance(mx.array(prompt[-1:], mx.uint32))
        self.ids.append(prompt[-1])
        self.stream.report(put, len(prompt))
        return True

    def _advance(self, token):
        """Computes the pass of a token and draws the next one."""
        with mx.stream(generation_stream):
            logits = self._model(token[None], cache=self.cache)[:, -1, :]
            if self._context is not None:
                context = self._context.update_and_fetch(token)
                for processor in self.stream.processors:
                    logits = processor(context, logits)
            following = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            self._token, self.logprobs = self.stream.sampler(following), following.squeeze(0)
            mx.async_eval(self._token, self.logprobs)

    def close(self):
        mx.clear_cache()
