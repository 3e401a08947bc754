"""The worker's loop: one thread reads frames, the main thread computes and writes."""

import os
import queue
import threading
import time
import traceback

import mlx.core as mx

from . import scoring
from .errors import Cancelled, RequestError
from .frames import FrameError, encode_frame, read_frame
from .generation import Generation
from .model import LoadedModel, versions


class Server:
    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._inbox = queue.SimpleQueue()
        self._cancelled = {}  # request id -> when; written by the reader thread, so that prefill sees it
        self._active = {}  # request id -> Generation
        self._loaded = None

    def run(self):
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        self._send({"t": "hello", "pid": os.getpid(), "versions": versions()})
        while True:
            message = self._next_message()
            if message is not None:
                if message["t"] == "shutdown":
                    return 0
                self._serve(message)
            self._step_all()

    def _read(self):
        """Takes frames while the main thread computes. The end of stdin ends the process: whoever
        started it is gone."""
        try:
            while (message := read_frame(self._reader)) is not None:
                if message.get("t") == "cancel":
                    self._cancelled[message["id"]] = time.monotonic()
                self._inbox.put(message)
        except FrameError as e:
            os.write(2, f"go_mlx_worker: {e}\n".encode())
            os._exit(3)
        os._exit(0)

    def _send(self, message):
        data = memoryview(encode_frame(message))
        while data:
            data = data[self._writer.write(data) :]

    def _next_message(self):
        """A message, or None when there are tokens to make instead."""
        runnable = any(g.credit > 0 for g in self._active.values())
        try:
            return self._inbox.get_nowait() if runnable else self._inbox.get()
        except queue.Empty:
            return None

    def _serve(self, message):
        kind, request = message["t"], message.get("id", 0)
        if kind == "cancel":
            self._cancel(request)
            return
        if kind == "credit":
            if request in self._active:
                self._active[request].credit += message["n"]
            return
        try:
            self._check_cancelled(request)
            reply = self._handle(kind, message)
            if reply is not None:
                self._send({"t": "result", "id": request, **reply})
        except Exception as e:
            self._fail(request, e)

    def _handle(self, kind, message):
        if kind == "load":
            self._loaded = LoadedModel(message["path"], message["trust_remote_code"])
            return {"info": self._loaded.info()}
        if self._loaded is None:
            raise RequestError("bad_request", f"{kind} before load")
        if kind == "generate":
            request = message["id"]
            self._active[request] = Generation(
                self._loaded, message, self._cancelled.__contains__, self._report_prefill
            )
            return None
        if kind == "classify":
            scores = scoring.classify(self._loaded, message, lambda: self._check_cancelled(message["id"]))
            return {"scores": scores}
        if kind == "encode":
            return {"ids": self._loaded.encode(message["text"], message["special"])}
        if kind == "decode":
            return {"text": self._loaded.decode(message["ids"])}
        if kind == "render":
            return {"text": self._loaded.render_chat(message["messages"])}
        if kind == "has_template":
            return {"value": self._loaded.has_template}
        if kind == "memory":
            return {
                "active": mx.get_active_memory(),
                "cache": mx.get_cache_memory(),
                "peak": mx.get_peak_memory(),
            }
        raise RequestError("bad_request", f"unknown message {kind!r}")

    def _report_prefill(self, request, done, total):
        self._send({"t": "progress", "id": request, "phase": "prefill", "done": done, "total": total})

    def _check_cancelled(self, request):
        if request in self._cancelled:
            raise Cancelled()

    def _step_all(self):
        """One token for every stream whose reader has room for it."""
        for generation in [g for g in self._active.values() if g.credit > 0]:
            try:
                self._check_cancelled(generation.id)
                message = generation.step()
            except Exception as e:
                self._fail(generation.id, e)
                continue
            generation.credit -= 1
            self._send(message)
            if "finish" in message:
                self._drop(generation.id)

    def _cancel(self, request):
        """Acknowledges a cancel of a stream that is waiting between tokens, or of one that is over."""
        if request in self._active:
            self._fail(request, Cancelled())
        self._cancelled.pop(request, None)

    def _fail(self, request, error):
        """Ends one request; the others go on."""
        made = self._active[request].made if request in self._active else 0
        self._drop(request)
        if isinstance(error, Cancelled):
            waited = time.monotonic() - self._cancelled.get(request, time.monotonic())
            self._send({"t": "cancelled", "id": request, "tokens": made, "seconds": waited})
            return
        message = {"t": "error", "id": request, "code": "internal", "message": f"{type(error).__name__}: {error}"}
        if isinstance(error, RequestError):
            message |= {"code": error.code, "message": str(error), "data": error.data}
        else:
            message["traceback"] = traceback.format_exc()
        self._send(message)

    def _drop(self, request):
        generation = self._active.pop(request, None)
        if generation is not None:
            generation.close()
            del generation
            mx.clear_cache()
