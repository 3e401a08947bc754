"""Which streams are computed together: each stream of a worker is in the batch, or steps by itself."""

import sys

import mlx.core as mx
from mlx_lm.generate import generation_stream

from .alone import Alone
from .batch import Batch
from .errors import ENDING, text_of
from .solo import Solo, check_options, needs_solo
from .stream import Stream

# A batch that failed with a stream twice will fail again: the stream then stays by itself.
RESCUES = 2
# Tokens that a stream makes by itself after its batch failed, before it is batched again.
PROBATION = 8


class Pass:
    """Work that cannot be divided. If it ends the worker, one of its requests is to blame."""

    def __init__(self, requests, phase, run):
        self.requests, self.phase, self.run = requests, phase, run


class Stepper:
    """Owns all streams. It passes their messages to put, in the order in which they were made."""

    def __init__(self, loaded, rows, prompts, put, fail):
        self._loaded, self._prompts, self._put, self._fail = loaded, prompts, put, fail
        self._batch = Batch(loaded, rows, prompts, self._ended) if rows > 1 and loaded.batchable else None
        self._alone = {}  # stream id -> Alone or Solo

    @property
    def busy(self):
        return bool(self._batch) or any(a.stream.credit > 0 for a in self._alone.values())

    def streams(self):
        return [a.stream for a in self._alone.values()] + (self._batch.streams() if self._batch else [])

    def find(self, request):
        return next((s for s in self.streams() if s.id == request), None)

    def add(self, request, check):
        check_options(self._loaded, request)
        stream = Stream(self._loaded, request, check)
        if needs_solo(self._loaded, request):
            self._alone[stream.id] = Solo(self._loaded, stream, self._put)
        elif self._batch is None or stream.apart:
            self._alone[stream.id] = Alone(self._loaded, stream)
        else:
            self._batch.add(self._put, stream)

    def remove(self, request, keep=False):
        """Takes out a stream that does not go on. keep, which is for the time between passes, puts the KV that it has into the prompt
        cache: the next request often begins with the same prompt."""
        alone = self._alone.pop(request, None)
        if alone is not None:
            self._close(alone, keep and not alone.prefilling)
        elif self._batch is not None and (stream := self.find(request)) is not None:
            try:
                self._batch.remove(stream, keep=keep and self._batch.past_prompt(stream))
            except ENDING:
                raise
            except BaseException as e:
                print(f"go_mlx_worker: a stream could not be taken out of its batch: {text_of(e)}", file=sys.stderr)
                self._rescue(lost=stream)

    def _close(self, alone, keep):
        """Lets go of what a stream has used; keep puts its KV into the prompt cache. Its reader has its end already, or is told it by
        who calls this."""
        try:
            if keep and isinstance(alone, Alone) and self._batch is not None and not alone.stream.options["solo"]:
                self._prompts.keep(alone.ids, alone.cache)
            alone.close()
        except ENDING:
            raise
        except BaseException as e:  # a generator of mlx-lm computes something when it is closed
            print(f"go_mlx_worker: a stream could not be closed: {type(e).__name__}: {text_of(e)}", file=sys.stderr)

    def passes(self):
        """The passes of one round, which gives every stream whose reader has room for it one token."""
        self._regroup()
        mixed = len(self._alone) + bool(self._batch) > 1
        if self._batch:
            phase = "prefill" if self._batch.prefilling else "decode"
            yield Pass([s.id for s in self._batch.streams()], phase, lambda: self._step_batch(mixed))
        for request, alone in list(self._alone.items()):
            # The passes before may have ended it.
            if self._alone.get(request) is alone and alone.stream.credit > 0:
                phase = "prefill" if alone.prefilling else "decode"
                yield Pass([request], phase, lambda alone=alone: self._step_alone(alone, mixed))

    def settle(self):
        """Waits for what streams have begun ahead of their next token, so that it cannot end another request's pass. An error of
        it shows again in the pass of its own stream."""
        if self._alone or self._batch:  # also one whose reader has no room: it has begun its next token
            try:
                mx.synchronize(generation_stream)
            except ENDING:
                raise
            except BaseException:
                pass

    def _ended(self, stream, error):
        self._fail(stream.id, error)

    def _sociable(self, alone):
        """Whether a stream that is by itself could be in the batch."""
        return isinstance(alone, Alone) and not alone.prefilling and not alone.stream.apart and alone.stream.credit > 0

    def _regroup(self):
        """A stream that is alone in the batch leaves it; as soon as there are two, both are batched."""
        if self._batch is None:
            return
        sociable = [a for a in self._alone.values() if self._sociable(a)]
        if len(sociable) + len(self._batch) > 1:
            for alone in sociable:
                try:
                    self._batch.join(self._put, alone)
                except ENDING:
                    raise
                except BaseException as e:
                    self._fail(alone.stream.id, e)
                else:
                    del self._alone[alone.stream.id]
                    if alone.stream.finished:
                        self._prompts.keep(alone.ids, alone.cache)
        elif len(self._batch) == 1:
            (stream,) = self._batch.streams()
            if self._batch.past_prompt(stream):
                self._leave(stream)

    def _leave(self, stream):
        """Takes a stream out of the batch, to step by itself. False says that this failed, and that no stream is left in the
        batch."""
        try:
            self._alone[stream.id] = self._batch.leave(stream)
            return True
        except ENDING:
            raise
        except BaseException as e:
            print(f"go_mlx_worker: a stream could not leave its batch: {text_of(e)}", file=sys.stderr)
            self._rescue(left=stream)
            return False

    def _rescue(self, left=None, lost=None):
        """Begins all streams of a batch that failed anew, each by itself: which one is to blame is found out by giving each
        passes of its own for a while. The others do not notice but for the time that it takes. left is one that may be out of
        the batch already, lost one that does not go on."""
        streams = [s for s in self._batch.rescue() if s is not lost]
        if left is not None and left not in streams:
            streams.append(left)
        for stream in streams:
            stream.rewind()
            stream.rescues += 1
            stream.keep_apart(0, stream.resumed + PROBATION if stream.rescues < RESCUES else None)
            self._alone[stream.id] = Alone(self._loaded, stream)

    def _step_batch(self, mixed):
        try:
            stepped = self._batch.step(self._put)
            if mixed:
                mx.synchronize(generation_stream)  # an error of what was begun here must not be raised in another stream's pass
        except ENDING:
            raise
        except BaseException:
            self._rescue()
            return
        for stream in stepped:
            if (stream.credit <= 0 or stream.apart) and not self._leave(stream):
                return

    def _step_alone(self, alone, mixed):
        alone.step(self._put)
        if mixed:
            mx.synchronize(generation_stream)
        if alone.stream.finished:
            del self._alone[alone.stream.id]
            self._close(alone, keep=True)
