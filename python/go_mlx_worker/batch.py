"""Continuous batching: many streams in one mlx-lm BatchGenerator."""

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import greedy_sampler

from .lone import Lone, Paused

# Tokens of a prompt in one pass; the native engine's chunk too, so that both compute the same passes.
PREFILL_CHUNK = 512
# The generator ends no stream: stop strings and limits are the stream's business.
NO_LIMIT = 1 << 60


class Guarded:
    """A sampler or processor of one row; its exception must not end the step of the others."""

    def __init__(self, call, fallback):
        self._call, self._fallback = call, fallback
        self.error = None

    def __call__(self, *args):
        try:
            return self._call(*args)
        except Exception as e:
            self.error = self.error or e
            return self._fallback(*args)


class Batch:
    def __init__(self, loaded, rows, prompts):
        self._loaded, self._rows, self._prompts = loaded, rows, prompts
        self._generator = None
        self._running = {}  # uid -> stream
        self._guards = {}  # uid -> [Guarded]
        self._paused = {}  # stream id -> (stream, Paused)
        self._uids = {}  # stream id -> uid
        self._prefilling = set()  # uids
        self._lone = None  # the stream that has the batch to itself, past its prompt

    @property
    def busy(self):
        return bool(self._running) or self._lone is not None or self._waking()

    def _waking(self):
        return any(s.credit > 0 for s, _ in self._paused.values())

    @property
    def prefilling(self):
        return bool(self._prefilling)

    def streams(self):
        lone = [self._lone.stream] if self._lone else []
        return lone + list(self._running.values()) + [s for s, _ in self._paused.values()]

    def add(self, stream):
        """Takes a stream in; returns how many tokens of its prompt are to be prefilled."""
        ids = stream.prompt
        cache, covered = self._prompts.fetch(ids)
        self._insert(stream, ids[covered:], cache, ids[:covered])
        return len(ids) - covered

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
        """Takes a stream out; keep puts its KV into the prompt cache."""
        if self._lone is not None and self._lone.stream is stream:
            ids, cache = self._lone.kept()
            self._lone = None
            if keep:
                self._prompts.keep(ids, cache)
            mx.clear_cache()
            return
        if stream.id in self._paused:
            _, paused = self._paused.pop(stream.id)
            if keep:
                self._prompts.keep(paused.ids, paused.cache)
            return
        uid = self._uids.pop(stream.id, None)
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

    def _forget(self, uid):
        del self._running[uid], self._guards[uid]
        self._prefilling.discard(uid)

    def _pause(self, uid):
        # The generator is one token ahead; without that token the stream could not go on where it is.
        # Pinned to mlx-lm's version: these two fields have no public name.
        generation = self._generator._generation_batch
        row = generation.uids.index(uid)
        token, logprobs = generation._next_tokens[row], generation._next_logprobs[row]
        cache, ids = self._generator.remove([uid], return_prompt_caches=True)[uid]
        mx.eval(token, logprobs, [c.state for c in cache])
        stream = self._running[uid]
        self._paused[stream.id] = (stream, Paused(cache, list(ids), token.item(), logprobs))
        del self._uids[stream.id]
        self._forget(uid)

    def _wake(self):
        messages = []
        for stream, paused in [p for p in self._paused.values() if p[0].credit > 0]:
            del self._paused[stream.id]
            messages.append((stream, stream.take(paused.token, paused.logprobs)))
            if stream.finished:
                self._prompts.keep(paused.ids, paused.cache)
            else:
                self._insert(stream, [paused.token], paused.cache, paused.ids)
        return messages

    def step(self):
        """One token for every stream that is past its prompt, one chunk for those that are not.

        Returns (messages [(stream, message)], prefill progress [(stream, done, total)], errors
        [(stream, exception)]). An exception of the pass itself empties the batch: see rescue."""
        if self._lone is not None and (self._running or self._waking()):
            # There is company: it goes back into the batch.
            self._paused[self._lone.stream.id] = (self._lone.stream, self._lone.pause())
            self._lone = None
        if self._lone is not None:
            return self._step_lone()
        messages, prefill, errors = self._wake(), [], []
        if not self._running:
            return messages, prefill, errors
        prompts, tokens = self._generator.next()
        for response in prompts:
            done, total = response.progress
            stream = self._running[response.uid]
            if not stream.prefilled:
                prefill.append((stream, done, total))
                stream.prefilled = done == total
            if response.end_of_prompt:
                self._prefilling.discard(response.uid)
            elif response.end_of_segment:
                self._keep_prompt(response.uid)
        for response in tokens:
            stream = self._running[response.uid]
            error = next((g.error for g in self._guards[response.uid] if g.error), None)
            if error is None:
                try:
                    messages.append((stream, stream.take(response.token, response.logprobs)))
                except Exception as e:
                    error = e
            if error is not None:
                errors.append((stream, error))
            if error is not None or stream.finished:
                self.remove(stream, keep=error is None)
            elif stream.credit <= 0:
                self._pause(response.uid)
        if len(self._running) == 1 and not self._prefilling and not self._waking():
            (uid,), (stream,) = self._running, self._running.values()
            self._pause(uid)
            self._lone = Lone(self._loaded.model, stream, self._paused.pop(stream.id)[1])
        return messages, prefill, errors

    def _step_lone(self):
        lone, stream = self._lone, self._lone.stream
        try:
            message = lone.step()
        except Exception as e:
            self.remove(stream)
            return [], [], [(stream, e)]
        if stream.finished:
            self.remove(stream, keep=True)
        elif stream.credit <= 0:
            self._paused[stream.id] = (stream, lone.pause())
            self._lone = None
        return [(stream, message)], [], []

    def _keep_prompt(self, uid):
        """Keeps a prompt's own KV, without its last token, if the KV at the end of the stream may not be
        cut back to it: a full sliding window has lost what stood before."""
        if self._prompts.max_bytes and not self._loaded.trimmable:
            cache, ids = self._generator.extract_cache([uid])[uid]
            self._prompts.keep(ids, cache)

    def rescue(self):
        """After a failed pass: the streams of the batch, whose KV is lost, and an empty batch."""
        streams = list(self._running.values())
        for stream in streams:
            del self._uids[stream.id]
            stream.rewind()
        self._running, self._guards, self._prefilling, self._generator = {}, {}, set(), None
        mx.clear_cache()
        return streams
