"""Lets huggingface_hub go on with a file where an earlier run has left it.

The library downloads every file anew into one with a name of its own, because on some file systems its locks do not hold. Here
the partial file has a lasting name, and whoever cannot have it for itself downloads as the library does. What a name stands for
cannot change: it holds the file's ETag, and its hash is checked in the end."""

import os
import re
from pathlib import Path

from huggingface_hub import file_download

try:
    import fcntl
except ImportError:  # Windows: files are downloaded as the library does
    fcntl = None

# What this uses of the library beyond its public names.
NAMES = ("_download_to_tmp_and_move", "http_get", "_chmod_and_move")


class UnsafeName(Exception):
    """The hub names something so that it would be written outside of the cache's folder."""


def safe(name):
    """A name that is one part of a path: a hash, an ETag."""
    return re.fullmatch(r"\w[\w.-]{0,127}", name) is not None


def check_etags():
    """Files of the cache are named by the ETags that a hub sends, which the library takes as they come."""
    theirs = getattr(file_download, "_normalize_etag", None)
    if theirs is None:
        return

    def ours(etag):
        name = theirs(etag)
        if name is not None and not safe(name):
            raise UnsafeName(f"the hub sent an ETag that no file can be named by: {name[:80]!r}")
        return name

    file_download._normalize_etag = ours


def partial_of(blob):
    """The lasting name of a partial file."""
    return Path(f"{blob}.go-mlx.incomplete")


def install():
    """Replaces the library's download into a temporary file; a library without these names is left as it is."""
    check_etags()
    if fcntl is None or not all(hasattr(file_download, name) for name in NAMES):
        return
    theirs = file_download._download_to_tmp_and_move

    def ours(*args, **wanted):
        known = not args and {"incomplete_path", "destination_path", "url_to_download", "headers"} <= wanted.keys()
        if not known or wanted.get("force_download") or not wanted.get("expected_size") or not download(wanted):
            theirs(*args, **wanted)

    file_download._download_to_tmp_and_move = ours


def download(wanted):
    """False if another process has the partial file."""
    destination, size = Path(wanted["destination_path"]), wanted["expected_size"]
    if destination.exists():
        return True
    partial = partial_of(destination)
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        done = f.seek(0, os.SEEK_END)
        if done > size:  # of another try that went wrong
            done = f.seek(0)
            f.truncate()
        file_download.http_get(wanted["url_to_download"], f, headers=wanted["headers"], expected_size=size, resume_size=done, tqdm_class=wanted.get("tqdm_class"))
        f.flush()
        file_download._chmod_and_move(partial, destination)
    return True
