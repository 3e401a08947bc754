"""Time limits for Python code that others wrote: chat templates and parsers."""

import signal
import threading
import time
from contextlib import contextmanager

from .errors import RequestError


class _Interrupted(BaseException):
    """Not an Exception, so that no handler of the limited code catches it."""


class _Guard:
    """What the main thread is doing that may be broken off. The signal handler runs on the main thread, between two of
    its bytecodes, so nothing here is locked."""

    def __init__(self):
        self.until = None  # when the section under way is over its time; None outside of sections
        self.cancelled = None  # a func that says whether the request was cancelled

    def on_signal(self, *_):
        if self.until is None:
            return
        if time.monotonic() >= self.until or (self.cancelled is not None and self.cancelled()):
            raise _Interrupted


_guard = _Guard()


def install():
    """Makes limits work; on the main thread, before the first section."""
    signal.signal(signal.SIGALRM, _guard.on_signal)


def nudge():
    """From another thread: lets the main thread look whether the request was cancelled."""
    signal.raise_signal(signal.SIGALRM)


def watch(cancelled):
    """Sections from now on end early when cancelled, a func, says so; None forgets it."""
    _guard.cancelled = cancelled


@contextmanager
def limited(seconds, what):
    """Ends the block with an error when it takes too long or its request is cancelled. Elsewhere than on a main thread
    after install the block runs without limits."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGALRM) != _guard.on_signal:
        yield
        return
    # The timer repeats: a signal that comes while C code swallows exceptions would be lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
    try:
        try:
            _guard.until = time.monotonic() + seconds
            yield
        finally:
            _guard.until = None
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Interrupted:
        raise RequestError("bad_request", f"{what} took more than {seconds} s, or was cancelled") from None
