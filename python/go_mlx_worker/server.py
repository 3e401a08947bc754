"""The worker's loop: one thread reads frames, the main thread computes and writes."""

import os
import queue
import threading
import time

import mlx.core as mx

from . import limits
from .errors import ENDING, Cancelled, RequestError, text_of
from .frames import FrameError, read_frame, text_error
from .lists import LISTS
from .model import LoadedModel, checkpoint_bytes
from .outbox import Outbox
from .prompts import PromptCache
from .stepping import Pass, Stepper
from .trace import trace


class Server:
    def __init__(self, reader, channel, progress):
        self._reader, self._progress = reader, progress
        self._outbox = Outbox(channel)
        self._inbox = queue.SimpleQueue()
        # Request id -> when; written by the reader thread, so that prefill sees it.
        self._cancelled = {}
        self._acknowledged = set()  # cancels that were answered before their turn in the inbox
        self._loaded = self._stepper = None
        self._prompts = PromptCache(0)
        self._jobs = {}  # request id -> generator of a long request's passes
        progress.memory = self._memory

    def run(self):
        """Serves until it is asked to end; returns the exit status."""
        limits.install()
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
                    limits.nudge()
                self._inbox.put(message)
        except BaseException as e:
            # A broken frame, or one that cannot be read, for lack of memory for example. Without this thread the worker would look
            # idle and receive nothing.
            text = text_of(e) if isinstance(e, FrameError) else f"reading frames: {type(e).__name__}: {text_of(e)}"
            os.write(2, f"go_mlx_worker: {text}\n".encode())
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
        self._outbox.announce([])
        self._progress.enter("idle")
        return self._inbox.get()

    def _busy(self):
        return bool(self._jobs) or (self._stepper is not None and self._stepper.busy)

    def _serve(self, message):
        kind, request = message["t"], message["id"]
        if kind == "cancel":
            self._cancel(request)
        elif kind == "credit":
            stream, n = self._stepper.find(request) if self._stepper else None, message.get("n")
            if stream is not None and isinstance(n, int):
                stream.credit += n
        else:
            # Templates and tokenizers can loop, too: a request on its way in is a pass, and never idle.
            self._run(Pass([request], "load" if kind == "load" else "admit", lambda: self._admit(kind, request, message)))

    def _admit(self, kind, request, message):
        self._check_cancelled(request)
        reply = self._handle(kind, message)
        if reply is not None:
            self._outbox.put({"t": "result", "id": request, **reply})

    def _handle(self, kind, message):
        if kind == "load":
            return self._load(message)
        if (where := text_error(message)) is not None:
            raise RequestError("invalid_utf8", f"{where} is not UTF-8")
        if self._loaded is None:
            raise RequestError("bad_request", f"{kind} before load")
        request = message["id"]
        if kind == "generate":
            self._stepper.add(message, lambda: self._on_prefill(request))
            return None
        if kind in LISTS:
            self._jobs[request] = LISTS[kind](self._loaded, message)
            return None
        if kind == "encode":
            return {"ids": self._loaded.encode(message["text"], message["special"])}
        if kind == "decode":
            return {"text": self._loaded.decode(message["ids"])}
        if kind == "render":
            if message.get("ids"):
                return {"ids": self._loaded.chat_ids(message)}
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
        self._stepper = Stepper(self._loaded, message["batch"], self._prompts, self._outbox.put, self._fail)
        return {"info": self._loaded.info()}

    # --- computing ---------------------------------------------------------------------------------

    def _step(self):
        """One token for every stream whose reader has room for it, one pass for every long request."""
        try:
            if self._stepper is not None:
                for step in self._stepper.passes():
                    self._run(step)
            for request, job in list(self._jobs.items()):
                self._run(Pass([request], "score", lambda request=request, job=job: self._step_job(request, job)))
        finally:
            self._outbox.flush()

    def _run(self, step):
        """Runs a pass. Its exception is the error of its request; a pass of several takes care of its own."""
        if self._stepper is not None and step.phase in ("admit", "score"):
            self._stepper.settle()
        self._outbox.announce(step.requests)
        self._progress.phase = step.phase
        try:
            if len(step.requests) == 1:
                (request,) = step.requests
                self._check_cancelled(request)
                limits.watch(lambda: request in self._cancelled)
            step.run()
        except ENDING:
            raise
        except BaseException as e:
            for request in step.requests:
                self._fail(request, e)
        finally:
            limits.watch(None)
            self._progress.work += 1
            self._outbox.flush()

    def _step_job(self, request, job):
        try:
            next(job)
        except StopIteration as result:
            self._drop(request)
            self._outbox.put({"t": "result", "id": request, **result.value})

    def _on_prefill(self, request):
        self._check_cancelled(request)
        self._progress.work += 1
        self._outbox.flush()

    # --- ends --------------------------------------------------------------------------------------

    def _check_cancelled(self, request):
        if request in self._cancelled:
            raise Cancelled()

    def _cancel(self, request):
        """Answers a cancel: every one is acknowledged once, also of a request that is over."""
        if request not in self._acknowledged:
            self._outbox.announce([request])  # to keep its KV is work for it
            self._fail(request, Cancelled(), keep=True)  # no pass is under way, so the KV is that of the stream's tokens
        self._acknowledged.discard(request)
        self._cancelled.pop(request, None)
        self._outbox.flush()

    def _fail(self, request, error, keep=False):
        """Ends one request; the others go on. keep puts the KV of a stream into the prompt cache."""
        stream = self._stepper.find(request) if self._stepper else None
        self._drop(request, keep)
        # A request that was broken off by its cancel counts as cancelled, whatever exception it raised.
        if request in self._cancelled and request not in self._acknowledged:
            self._acknowledged.add(request)
            made = stream.made if stream else 0
            waited = time.monotonic() - self._cancelled[request]
            self._outbox.put({"t": "cancelled", "id": request, "tokens": made, "seconds": waited})
            return
        self._outbox.put_error(request, error)

    def _drop(self, request, keep=False):
        self._jobs.pop(request, None)
        if self._stepper is not None:
            self._stepper.remove(request, keep)
