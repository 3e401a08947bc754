"""The worker's loop: one thread reads frames, the main thread computes and writes."""

import os
import queue
import threading
import time

import mlx.core as mx

from . import scoring
from .batch import Batch
from .errors import Cancelled, RequestError, error_message
from .frames import FrameError, read_frame
from .model import LoadedModel, checkpoint_bytes
from .prompts import PromptCache
from .solo import Solo, check_options, needs_solo
from .stream import Stream
from .trace import trace


class Server:
    def __init__(self, reader, channel, progress):
        self._reader, self._channel, self._progress = reader, channel, progress
        self._inbox = queue.SimpleQueue()
        # Request id -> when; written by the reader thread, so that prefill sees it.
        self._cancelled = {}
        self._acknowledged = set()  # cancels that were answered before their turn in the inbox
        self._loaded = self._batch = None
        self._prompts = PromptCache(0)
        self._solos = {}  # request id -> Solo
        self._jobs = {}  # request id -> generator of a long request's passes
        progress.memory = self._memory

    def run(self):
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        self._progress.enter("idle")
        while True:
            while (message := self._next_message()) is not None:
                if message["t"] == "shutdown":
                    return 0
                self._progress.work += 1
                self._serve(message)
            self._step()

    def _read(self):
        """Takes frames while the main thread computes. The end of stdin ends the process: whoever
        started it is gone."""
        try:
            while (message := read_frame(self._reader)) is not None:
                if not isinstance(message.get("t"), str) or not isinstance(message.get("id"), int):
                    raise FrameError("message without a type or an id")
                if message.get("t") == "cancel":
                    self._cancelled[message["id"]] = time.monotonic()
                self._inbox.put(message)
        except FrameError as e:
            os.write(2, f"go_mlx_worker: {e}\n".encode())
            os._exit(3)
        os._exit(0)

    def _memory(self):
        return {
            "active": mx.get_active_memory(),
            "cache": mx.get_cache_memory(),
            "peak": mx.get_peak_memory(),
            "prompt_cache": self._prompts.nbytes,
        }

    # --- messages ----------------------------------------------------------------------------------

    def _next_message(self):
        """A message, or None when there is none and something to compute instead."""
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            if self._busy():
                return None
        self._progress.enter("idle")
        return self._inbox.get()

    def _busy(self):
        ready = any(s.stream.credit > 0 for s in self._solos.values())
        return ready or bool(self._jobs) or (self._batch is not None and self._batch.busy)

    def _serve(self, message):
        kind, request = message["t"], message["id"]
        if kind == "cancel":
            self._cancel(request)
            return
        if kind == "credit":
            stream = self._find(request)
            if stream is not None:
                stream.credit += message["n"]
            return
        try:
            self._check_cancelled(request)
            reply = self._handle(kind, message)
            if reply is not None:
                self._channel.send({"t": "result", "id": request, **reply})
        except Exception as e:
            self._fail(request, e)

    def _handle(self, kind, message):
        if kind == "load":
            return self._load(message)
        if self._loaded is None:
            raise RequestError("bad_request", f"{kind} before load")
        if kind == "generate":
            return self._generate(message)
        if kind == "classify":
            self._jobs[message["id"]] = scoring.classify(self._loaded, message)
            return None
        if kind == "encode":
            return {"ids": self._loaded.encode(message["text"], message["special"])}
        if kind == "decode":
            return {"text": self._loaded.decode(message["ids"])}
        if kind == "render":
            return {"text": self._loaded.render_chat(message)}
        if kind == "trace":
            self._progress.phase = "score"
            return {"states": trace(self._loaded, message)}
        if kind == "memory":
            return self._memory()
        raise RequestError("bad_request", f"unknown message {kind!r}")

    def _load(self, message):
        total = checkpoint_bytes(message["path"], message.get("draft"))
        self._progress.enter("load", message["id"], total)
        self._loaded = LoadedModel(message)
        self._prompts = PromptCache(message["prompt_cache"])
        if message["batch"] > 1:
            self._batch = Batch(self._loaded, message["batch"], self._prompts)
        return {"info": self._loaded.info()}

    def _generate(self, message):
        check_options(self._loaded, message)
        stream = Stream(self._loaded, message)
        if self._batch is None or needs_solo(self._loaded, message):
            self._solos[stream.id] = Solo(self._loaded, stream, self._solo_prefill)
        else:
            self._channel.send(_prefill_message(stream, 0, self._batch.add(stream)))

    # --- computing ---------------------------------------------------------------------------------

    def _step(self):
        """One token for every stream whose reader has room for it, one pass for every long request."""
        self._step_batch()
        for request, solo in list(self._solos.items()):
            if solo.stream.credit > 0:
                self._step_solo(request, solo)
        for request, job in list(self._jobs.items()):
            self._step_job(request, job)

    def _step_batch(self):
        if self._batch is None or not self._batch.busy:
            return
        self._progress.phase = "prefill" if self._batch.prefilling else "decode"
        try:
            messages, prefill, errors = self._batch.step()
        except Exception:
            # Which stream is to blame is found out by giving each a pass of its own from here on; the
            # others do not notice but for the prefill of what they had.
            for stream in self._batch.rescue():
                try:
                    self._solos[stream.id] = Solo(self._loaded, stream, self._solo_prefill)
                except Exception as e:
                    self._fail(stream.id, e)
            return
        self._progress.work += 1
        out = [message for _, message in messages if message]
        out += [_prefill_message(*p) for p in prefill]
        out += [error_message(stream.id, error) for stream, error in errors]
        self._channel.send(*out)

    def _step_solo(self, request, solo):
        try:
            self._check_cancelled(request)
            self._progress.phase = "decode" if solo.stream.made else "prefill"
            message = solo.step()
        except Exception as e:
            self._fail(request, e)
            return
        self._progress.work += 1
        if message:
            self._channel.send(message)
        if solo.stream.finished:
            self._drop(request)

    def _step_job(self, request, job):
        try:
            self._check_cancelled(request)
            self._progress.phase = "score"
            next(job)
        except StopIteration as result:
            self._drop(request)
            self._channel.send({"t": "result", "id": request, "scores": result.value})
        except Exception as e:
            self._fail(request, e)
        self._progress.work += 1

    def _solo_prefill(self, stream, done, total):
        self._check_cancelled(stream.id)
        self._progress.work += 1
        if not stream.prefilled:
            self._channel.send(_prefill_message(stream, done, total))
            stream.prefilled = done == total

    # --- ends --------------------------------------------------------------------------------------

    def _check_cancelled(self, request):
        if request in self._cancelled:
            raise Cancelled()

    def _find(self, request):
        if request in self._solos:
            return self._solos[request].stream
        streams = self._batch.streams() if self._batch else []
        return next((s for s in streams if s.id == request), None)

    def _cancel(self, request):
        """Answers a cancel: every one is acknowledged once, also of a request that is over."""
        if request not in self._acknowledged:
            self._fail(request, Cancelled())
        self._acknowledged.discard(request)
        del self._cancelled[request]

    def _fail(self, request, error):
        """Ends one request; the others go on."""
        stream = self._find(request)
        self._drop(request)
        if isinstance(error, Cancelled):
            self._acknowledged.add(request)
            made = stream.made if stream else 0
            waited = time.monotonic() - self._cancelled[request]
            self._channel.send({"t": "cancelled", "id": request, "tokens": made, "seconds": waited})
            return
        self._channel.send(error_message(request, error))

    def _drop(self, request):
        self._jobs.pop(request, None)
        solo = self._solos.pop(request, None)
        if solo is not None:
            solo.close()
        elif self._batch is not None:
            stream = self._find(request)
            if stream is not None:
                self._batch.remove(stream)


def _prefill_message(stream, done, total):
    return {"t": "progress", "id": stream.id, "phase": "prefill", "done": done, "total": total}
