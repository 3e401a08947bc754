"""Frames: a length of 4 bytes, big endian, then a msgpack map."""

import struct
import threading

import msgpack

from .errors import encodable, printable

MAX_FRAME = 64 << 20


class FrameError(Exception):
    """What is on the pipe is not a frame; nothing after it can be trusted."""


def read_frame(stream):
    """The next frame's map, or None at the end of the stream."""
    head = _read_exactly(stream, 4, at_border=True)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if length > MAX_FRAME:
        raise FrameError(f"frame of {length} bytes; the limit is {MAX_FRAME}")
    body = _read_exactly(stream, length, at_border=False)
    try:
        # Text that is not UTF-8 is an error of its request (see text_error), not of the session; file names may be such.
        message = msgpack.unpackb(body, raw=False, strict_map_key=True, unicode_errors="surrogateescape")
    except Exception as e:
        raise FrameError(f"frame is not msgpack: {e}") from e
    if not isinstance(message, dict):
        raise FrameError(f"frame holds a {type(message).__name__}, want a map")
    return message


def _read_exactly(stream, count, at_border):
    data = bytearray()
    while len(data) < count:
        piece = stream.read(count - len(data))
        if not piece:
            if at_border and not data:
                return None
            raise FrameError(f"stream ends after {len(data)} of {count} bytes")
        data += piece
    return bytes(data)


def text_error(value, path=""):
    """Where a message holds text that was not UTF-8; None if it holds none."""
    if isinstance(value, str):
        return None if value.isascii() or encodable(value) else path
    if isinstance(value, list):
        return next((e for i, v in enumerate(value) if (e := text_error(v, f"{path}[{i}]"))), None)
    if isinstance(value, dict):
        return next((e for k, v in value.items() if (e := text_error(v, f"{path}.{k}" if path else printable(k)))), None)
    return None


_packers = threading.local()


def encode_frame(message):
    # A packer sets a large buffer aside, which costs more than a small message: one for each thread.
    if not hasattr(_packers, "packer"):
        _packers.packer = msgpack.Packer(use_bin_type=True)
    try:
        body = _packers.packer.pack(message)
    except Exception:
        del _packers.packer  # it keeps what it had packed so far
        raise
    if len(body) > MAX_FRAME:
        raise FrameError(f"frame of {len(body)} bytes; the limit is {MAX_FRAME}")
    return struct.pack(">I", len(body)) + body
