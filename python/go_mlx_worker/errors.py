"""Errors that the Go side knows by code."""

import errno
import json
import re
import traceback


class RequestError(Exception):
    """A request that cannot be served; the worker goes on. data holds what the code's Go error needs."""

    def __init__(self, code, message, **data):
        super().__init__(message)
        self.code, self.data = code, data


class Cancelled(Exception):
    """The request was cancelled by the Go side."""


def from_json(text, what):
    """What JSON from the Go side says. It is whole there, but Python takes no numbers of thousands of digits, and not everything
    that lies deep in each other."""
    try:
        value = json.loads(text)
        return _printable_all(value) if _HALF.search(text) else value
    except (ValueError, RecursionError) as e:
        raise RequestError("bad_request", f"{what}: {e}") from e


def encodable(text):
    """Whether text is UTF-8: Python's strings can hold halves of surrogate pairs."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def printable(text):
    """text with what UTF-8 cannot encode replaced, as other readers of JSON do."""
    return text if encodable(text) else re.sub("[\ud800-\udfff]", "\ufffd", text)


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # in JSON; the other half may follow


def _printable_all(value):
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable_all(v) for v in value]
    if isinstance(value, dict):
        return {printable(k): _printable_all(v) for k, v in value.items()}
    return value


# Libraries in Rust tell a panic by a BaseException that is no Exception, and a checkpoint's own code may call exit(). Those are errors
# of a request, too: what a request does is caught by `except BaseException`, after this one, which ends the worker.
ENDING = KeyboardInterrupt

# MLX has no exception type of its own for memory. Its back ends say: "[malloc_or_wait] Unable to allocate", "[metal::malloc]
# Attempting to allocate ... maximum allowed buffer size", "[METAL] Command buffer execution failed: Insufficient Memory",
# "[cuda::malloc]", cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY, CUBLAS_STATUS_ALLOC_FAILED. Systems say "Cannot allocate memory".
_MEMORY = re.compile(
    r"\[(\w+(::|_))?malloc|out[ _]?of[ _]?(\w+[ _])?memory|(insufficient|not enough) memory|maximum allowed buffer size"
    r"|memory ?allocation|alloc(ation)?_failed|bad_alloc"
    r"|(unable to|failed to|attempting to|cannot|can't|could not|couldn't) allocate",
    re.IGNORECASE,
)


def text_of(error):
    try:
        return printable(str(error))
    except Exception as broken:  # an exception whose text cannot be made
        return f"({type(broken).__name__} in its text)"


def is_out_of_memory(error):
    seen = set()  # causes can go round in a circle
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or _MEMORY.search(text_of(error)):
            return True
        seen.add(id(error))
        # What was raised while another error was being handled most often comes of that one.
        error = error.__context__ if error.__cause__ is None and not error.__suppress_context__ else error.__cause__
    return False


def error_message(request, error):
    """The frame that ends a request with an exception. It can always be sent."""
    code, data, trace = "internal", {}, ""
    if isinstance(error, RequestError):
        code, data = error.code, error.data
    elif is_out_of_memory(error):
        code = "out_of_memory"
    text = text_of(error)
    if not isinstance(error, RequestError):
        text = f"{type(error).__name__}: {text}"
        trace = printable("".join(traceback.format_exception(error)))[-TRACE_CHARS:]
    message = {"t": "error", "id": request, "code": code, "message": text[:TRACE_CHARS]}
    if data:
        message["data"] = {k: printable(v) if isinstance(v, str) else v for k, v in data.items()}
    if trace:
        message["traceback"] = trace
    return message


# A traceback of deep recursion, or a message that repeats the request, need not travel whole.
TRACE_CHARS = 64 << 10
