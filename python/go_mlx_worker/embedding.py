"""Vectors of texts: what the model's body computes before the layer of logits, pooled."""

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from .alone import PREFILL_CHUNK
from .errors import ENDING, RequestError, is_out_of_memory, text_of
from .pooling import Pooling
from .turns import MAX_ROWS, each_text

# Bound of one pass, that of the native engine. A longer text goes through the model in chunks, like a prompt.
MAX_TOKENS = 2048

# Where mlx-lm's models keep what computes the states: in one of BODIES, of the model or of its text part.
TEXT_PART, BODIES = "language_model", ("model", "transformer", "backbone")


class Embedder:
    """Belongs to a loaded model. A model that has no vectors says so to whoever asks for them: all else it may do."""

    def __init__(self, model, config, folder):
        self._model, self._config = model, config
        self._body = self._size = self._pooling = self._error = None
        try:
            self._pooling = Pooling(folder)
        except RequestError as e:
            self._error = e

    def prepare(self):
        """(the pooling, how many values vectors have); an error for models without."""
        if self._error is None and self._body is None:
            try:
                self._find()
            except RequestError as e:
                self._error = e
        if self._error is not None:
            data = {"architecture": self._config.get("model_type", "")} if self._error.code == "no_embeddings" else {}
            raise RequestError(self._error.code, str(self._error), **data)
        return self._pooling, self._size

    def _find(self):
        text = self._config.get("text_config") or self._config
        for config in (self._config, text):
            # "vision" is Gemma 4's word for images that are seen both ways, and texts as always.
            if config.get("use_bidirectional_attention") not in (None, False, "vision"):
                raise RequestError("no_embeddings", "it attends in both directions, which mlx-lm does not compute")
        owner = getattr(self._model, TEXT_PART, self._model)
        bodies = [getattr(owner, name) for name in BODIES if callable(getattr(owner, name, None))]
        if not bodies:
            raise RequestError("no_embeddings", "mlx-lm's class for it has no part that gives hidden states")
        body = bodies[0]
        try:
            states = body(mx.array([[0]]), cache=None)
            form = isinstance(states, mx.array) and states.ndim == 3 and states.shape[:2] == (1, 1) and mx.issubdtype(states.dtype, mx.floating)
            if form:
                mx.eval(states)
        except ENDING:
            raise
        except Exception as e:
            if is_out_of_memory(e):
                raise
            raise RequestError(
                "no_embeddings", f"the part of mlx-lm's class for it that should give hidden states fails: {type(e).__name__}: {text_of(e)}"
            ) from e
        known = text.get("hidden_size")
        if not form or known and states.shape[-1] != known:
            raise RequestError("no_embeddings", "what the body of mlx-lm's class for it gives is not a hidden state for each token")
        self._size = self._pooling.size(states.shape[-1])
        self._body = body

    def states(self, rows, cache=None):
        """Hidden states [B, L, hidden] of rows of one length."""
        return self._body(mx.array(rows), cache=cache)

    def cache(self):
        return make_prompt_cache(self._model)


def embed(loaded, request):
    """A generator that yields between passes, so that streams go on meanwhile, and returns "vectors", the float32 numbers of all texts
    one after the other, each of "size"; whether to "normalize" them; and the texts' "prompt_tokens". A text is in request["texts"] or,
    in its place, in request["ids"]."""
    embedder = loaded.embedder
    pooling, size = embedder.prepare()
    if request["dimensions"] > size:
        raise RequestError("invalid_option", f"the model's vectors have only {size}", option="Dimensions")
    prompt = pooling.prompt(request["prompt"])

    def ids_of(item):
        text, ids = item
        return loaded.text_ids(prompt + text) if ids is None else loaded.checked_ids(ids)

    texts = request["texts"]
    items = zip(texts, request.get("ids") or [None] * len(texts), strict=True)
    rows = yield from each_text(items, request["from"], ids_of)
    rows = sorted(((ids, i) for i, ids in enumerate(rows)), key=lambda row: len(row[0]))
    tokens, vectors = sum(len(ids) for ids, _ in rows), [b""] * len(rows)
    try:
        while rows:
            yield
            batch, rows = _cut(rows)
            if len(batch[0][0]) > MAX_TOKENS:
                pooled = yield from _long(embedder, pooling, batch[0][0])
            else:
                pooled = _short(embedder, pooling, batch)
            values = pooling.project(pooled)
            mx.eval(values)
            for (_, i), vector in zip(batch, values):
                vectors[i] = bytes(memoryview(vector))
    finally:  # also when it is cancelled between two passes
        mx.clear_cache()
    return {"vectors": b"".join(vectors), "size": size, "normalize": pooling.normalize, "prompt_tokens": tokens}


def _cut(rows):
    """The next batch of rows that are sorted by length, and those after it."""
    size = 1
    while size < min(len(rows), MAX_ROWS) and (size + 1) * len(rows[size][0]) <= MAX_TOKENS:
        size += 1
    return rows[:size], rows[size:]


def _short(embedder, pooling, batch):
    """Pooled states [B, hidden] of a batch in one pass. Rows are filled up at their end, which no token before it attends to: the model
    sees backwards only, and other models are refused."""
    width = len(batch[-1][0])
    h = embedder.states([ids + [0] * (width - len(ids)) for ids, _ in batch])
    return mx.stack([pooling.part(h[b, : len(ids)], 0, len(ids)) for b, (ids, _) in enumerate(batch)])


def _long(embedder, pooling, ids):
    """A generator that returns the pooled state [1, hidden] of one long text, and yields between its chunks."""
    cache, pooled = embedder.cache(), 0
    for begin in range(0, len(ids), PREFILL_CHUNK):
        if begin:
            yield
        chunk = ids[begin : begin + PREFILL_CHUNK]
        pooled = pooled + pooling.part(embedder.states([chunk], cache)[0], begin, len(ids))
        mx.eval(pooled, [c.state for c in cache])
        mx.clear_cache()
    return pooled[None]
