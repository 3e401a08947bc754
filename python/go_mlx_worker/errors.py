"""Errors that the Go side knows by code."""

import traceback


class RequestError(Exception):
    """A request that cannot be served; the worker goes on. data holds what the code's Go error needs."""

    def __init__(self, code, message, **data):
        super().__init__(message)
        self.code, self.data = code, data


class Cancelled(Exception):
    """The request was cancelled by the Go side."""


def error_message(request, error):
    """The frame that ends a request with an exception."""
    message = {"t": "error", "id": request, "code": "internal", "message": f"{type(error).__name__}: {error}"}
    if isinstance(error, RequestError):
        return message | {"code": error.code, "message": str(error), "data": error.data}
    # MLX has no exception type of its own for this.
    if isinstance(error, MemoryError) or "[malloc" in str(error) or "out of memory" in str(error).lower():
        message["code"] = "out_of_memory"
    message["traceback"] = "".join(traceback.format_exception(error))
    return message
