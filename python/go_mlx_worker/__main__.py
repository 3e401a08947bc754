"""python -m go_mlx_worker: takes frames on stdin, answers on stdout, prints go to stderr."""

import faulthandler
import os
import signal
import sys
from importlib import metadata

from . import PROTOCOL
from .channel import Channel, Progress


def versions():
    """What is installed, read without importing it: the greeting must not wait for the imports, and
    must come even if they fail."""
    found = {"protocol": PROTOCOL, "python": sys.version.split()[0]}
    for package in ("mlx", "mlx-lm", "transformers", "tokenizers"):
        try:
            found[package.replace("-", "_")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package.replace("-", "_")] = ""
    return found


def main():
    # Frames get a descriptor of their own; descriptor 1 becomes stderr, so that a library's print
    # cannot get between two frames.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # Tracebacks of a crash, and of all threads when the supervisor asks what hangs.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)

    progress = Progress()
    channel = Channel(out)
    channel.send({"t": "hello", "id": 0, "pid": os.getpid(), "versions": versions()})
    channel.start_heartbeat(progress)

    from .server import Server

    sys.exit(Server(sys.stdin.buffer, channel, progress).run())


if __name__ == "__main__":
    main()
