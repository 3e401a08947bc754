"""Errors that the Go side knows by code."""


class RequestError(Exception):
    """A request that cannot be served; the worker goes on. data holds what the code's Go error needs."""

    def __init__(self, code, message, **data):
        super().__init__(message)
        self.code, self.data = code, data


class Cancelled(Exception):
    """The request was cancelled by the Go side."""
