"""KV kept between requests."""

import sys

import mlx.core as mx
from mlx_lm.models.cache import LRUPromptCache

from .errors import ENDING, text_of


class PromptCache:
    """mlx-lm's cache of prompts with a cap of its bytes; 0 keeps nothing."""

    def __init__(self, max_bytes):
        self.max_bytes = max_bytes
        self._lru = LRUPromptCache(max_size=1 << 30, max_bytes=max_bytes)

    @property
    def nbytes(self):
        return self._lru.nbytes

    def fetch(self, ids):
        """(a KV cache of a prefix or None, how many tokens it covers). The last token is never covered:
        its logits are what a request starts from."""
        if not self.max_bytes or len(ids) < 2:
            return None, 0
        cache, rest = self._lru.fetch_nearest_cache("", ids[:-1])
        return cache, len(ids) - 1 - len(rest) if cache is not None else 0

    def keep(self, ids, cache):
        """Takes over the KV cache of all ids."""
        if not self.max_bytes or not ids:
            return
        try:
            # What was cut out of a batch must not hold the whole batch's arrays.
            mx.eval([c.state for c in cache])
            if sum(c.nbytes for c in cache) <= self.max_bytes:
                self._lru.insert_cache("", list(ids), cache)
        except ENDING:
            raise
        except BaseException as e:  # the request that leaves it here has its answer already; that of the next one is only slower
            print(f"go_mlx_worker: KV is not kept: {type(e).__name__}: {text_of(e)}", file=sys.stderr)
