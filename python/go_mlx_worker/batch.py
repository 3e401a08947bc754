"""Continuous batching: many streams in one mlx-lm BatchGenerator."""

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import greedy_sampler

from .alone import PREFILL_CHUNK, Alone
from .errors import ENDING

# The generator never ends a stream: streams check stop strings and limits themselves.
NO_LIMIT = 1 << 60


class Guarded:
    """A sampler or processor of one row; its exception must not end the step of the others."""

    def __init__(self, call, fallback):
        self._call, self._fallback = call, fallback
        self.error = None

    def __call__(self, *args):
        try:
            return self._call(*args)
        except ENDING:
            raise
        except BaseException as e:
            self.error = self.error or e
            return self._fallback(*args)


class Batch:
    """The streams that share a pass. fail(stream, exception) is called with an error of one stream; the others go on."""

    def __init__(self, loaded, rows, prompts, fail):
        self._loaded, self._rows, self._prompts, self._fail = loaded, rows, prompts, fail
        self._generator = None
        self._running = {}  # uid -> stream
        self._guards = {}  # uid -> [Guarded]
        self._uids = {}  # stream id -> uid
        self._prefilling = set()  # uids

    def __len__(self):
        return len(self._running)

    @property
    def prefilling(self):
        return bool(self._prefilling)

    def streams(self):
        return list(self._running.values())

    def add(self, put, stream):
        """Takes in a stream that has computed nothing yet."""
        ids = stream.prompt
        cache, covered = self._prompts.fetch(ids)
        stream.cached = covered
        stream.report(put, 0, len(ids) - covered)
        self._insert(stream, ids[covered:], cache, ids[:covered])

    def join(self, put, alone):
        """Takes in a stream that is past its prompt. The token that it has drawn is given out before."""
        stream, token = alone.stream, alone.token
        stream.give(put, token, alone.logprobs)
        if not stream.finished:
            self._insert(stream, [token], alone.cache, alone.ids)

    def _insert(self, stream, ids, cache, history):
        if self._generator is None:
            self._generator = BatchGenerator(
                self._loaded.model, completion_batch_size=self._rows, prefill_step_size=PREFILL_CHUNK
            )
        guards = []
        sampler = stream.sampler
        if sampler is not greedy_sampler:
            sampler = Guarded(sampler, greedy_sampler)
            guards.append(sampler)
        processors = [Guarded(p, lambda _, logits: logits) for p in stream.processors]
        (uid,) = self._generator.insert(
            [ids],
            max_tokens=[NO_LIMIT],
            caches=[cache],
            all_tokens=[list(history)],
            samplers=[sampler],
            logits_processors=[processors],
        )
        self._running[uid], self._guards[uid], self._uids[stream.id] = stream, guards + processors, uid
        self._prefilling.add(uid)

    def remove(self, stream, keep=False):
        """Takes a stream out for good; keep puts its KV into the prompt cache."""
        uid = self._uids.get(stream.id)
        if uid is None:
            return
        keep = keep and self._prompts.max_bytes > 0
        caches = self._generator.remove([uid], return_prompt_caches=keep)
        self._forget(uid)
        if keep and uid in caches:
            cache, ids = caches[uid]
            self._prompts.keep(ids, cache)
        if not self._running:
            mx.clear_cache()

    def leave(self, stream):
        """Takes a stream out of the batch: it has no more credit, or no other stream is left in it."""
        # The generator is one token ahead; without that token the stream could not go on where it is. These names are
        # not public: requirements.probe looks for them when the worker starts.
        uid = self._uids[stream.id]
        generation = self._generator._generation_batch
        row = generation.uids.index(uid)
        token, logprobs = generation._next_tokens[row], generation._next_logprobs[row]
        removed = self._generator.remove([uid], return_prompt_caches=True)
        self._forget(uid)
        cache, ids = removed[uid]
        mx.eval(token, logprobs, [c.state for c in cache])
        return Alone(self._loaded, stream, cache, ids, token.item(), logprobs)

    def past_prompt(self, stream):
        return self._uids[stream.id] not in self._prefilling

    def _forget(self, uid):
        del self._uids[self._running[uid].id]
        del self._running[uid], self._guards[uid]
        self._prefilling.discard(uid)

    def step(self, put):
        """One token for every stream that is past its prompt, one chunk for those that are not. Returns the streams that
        got a token. An exception of the pass itself leaves the batch broken: see rescue."""
        prompts, tokens = self._generator.next()
        for response in prompts:
            stream = self._running[response.uid]
            stream.report(put, *response.progress)
            if response.end_of_prompt:
                self._prefilling.discard(response.uid)
            elif response.end_of_segment:
                self._keep_prompt(response.uid)
        stepped = []
        for response in tokens:
            stream = self._running[response.uid]
            error = next((g.error for g in self._guards[response.uid] if g.error), None)
            if error is None:
                try:
                    stream.give(put, response.token, response.logprobs)
                except ENDING:
                    raise
                except BaseException as e:
                    error = e
            if error is not None:
                self.remove(stream)
                self._fail(stream, error)
            elif stream.finished:
                self.remove(stream, keep=True)
            else:
                stepped.append(stream)
        return stepped

    def _keep_prompt(self, uid):
        """Keeps a prompt's own KV, without its last token, if the KV at the end of the stream may not be
        cut back to it: a full sliding window has lost the positions before it."""
        if self._prompts.max_bytes and not self._loaded.trimmable:
            cache, ids = self._generator.extract_cache([uid])[uid]
            self._prompts.keep(ids, cache)

    def rescue(self):
        """After a failed pass: the streams of the batch, whose KV is lost, and an empty batch."""
        streams = self.streams()
        self._running, self._guards, self._uids, self._prefilling, self._generator = {}, {}, {}, set(), None
        mx.clear_cache()
        return streams
