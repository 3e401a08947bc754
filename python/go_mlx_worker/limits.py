"""Time limits for Python code that others wrote: chat templates and parsers."""

import signal
import threading
import time

from .errors import RequestError


class _Interrupted(BaseException):
    """Not an Exception, so that no handler on the way takes it for its own."""


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


def limited(seconds, what, work):
    """Calls work, and ends it with an error when it takes too long or its request is cancelled. Elsewhere than on a main
    thread after install it runs without limits.

    It is no context manager: a signal between the end of such a one's __enter__ and the block would be raised where nobody
    catches it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGALRM) != _guard.on_signal:
        return work()
    # Again and again: a signal that comes while C code swallows exceptions would be lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
    try:
        try:
            _guard.until = time.monotonic() + seconds
            _guard.on_signal()  # it may have been cancelled just before
            return work()
        finally:
            _guard.until = None
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Interrupted:
        raise RequestError("bad_request", f"{what} took more than {seconds} s, or was cancelled") from None
