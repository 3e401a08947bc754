"""Limits of time and memory for Python code that others wrote: chat templates and parsers."""

import resource
import signal
import threading
import time

from .errors import RequestError


class _Interrupted(BaseException):
    """Not an Exception, so that no handler of the limited code catches it."""


class _Guard:
    """What the main thread is doing that may be broken off. The signal handler runs on the main thread, between two of
    its bytecodes, so nothing here is locked."""

    def __init__(self):
        self.until = None  # when the section under way is over its time; None outside of sections
        self.cancelled = None  # a func that says whether the request was cancelled
        self.memory = None  # the limits of memory before bounded; None outside of it

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


def limited(seconds, what, do):
    """What do returns; an error when it takes too long or its request is cancelled. Elsewhere than on a main thread after install it runs
    without limits.

    This is a function that is given another and no block of a with statement: a signal that waits for a long call of C code is
    delivered at the next bytecode, which would be the first one of __exit__, where nobody catches what the handler raises."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGALRM) != _guard.on_signal:
        return do()
    try:
        try:
            _guard.until = time.monotonic() + seconds
            # The timer repeats: a signal that comes while C code swallows exceptions would be lost.
            signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
            _guard.on_signal()  # it may have been cancelled just before
            return do()
        finally:
            _disarm()
    except _Interrupted:
        while True:
            try:
                _disarm()  # the signal may have come while that was being done
                break
            except _Interrupted:  # and so may the next one
                pass
        raise RequestError("bad_request", f"{what} took more than {seconds} s, or was cancelled") from None


def bounded(more, do):
    """What do returns; a MemoryError when it takes so many bytes more than the process has. Only Linux says how many that are and keeps
    to the limit; elsewhere there is none. Nothing else must be computed meanwhile, for it has the same limit."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            has = int(file.read(64).split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
    except (OSError, ValueError):
        return do()
    limit = min([has + more] + [b for b in before if b != resource.RLIM_INFINITY])
    _guard.memory = before
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        return do()
    finally:
        _unbound()  # if a signal comes first, limited does it


def _unbound():
    if _guard.memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, _guard.memory)
        _guard.memory = None


def _disarm():
    _guard.until = None
    _unbound()
    signal.setitimer(signal.ITIMER_REAL, 0)
