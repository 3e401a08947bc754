"""python -m go_mlx_worker: takes frames on stdin, answers on stdout, prints go to stderr."""

import faulthandler
import os
import signal
import sys
import traceback
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


def allow_any_file_limit():
    """mlx-lm sets the number of files that may be open when it is imported, and fails where a lower number is all that is
    allowed. It needs few of them here."""
    import resource

    set_limit = resource.setrlimit

    def setrlimit(kind, limits):
        if kind == resource.RLIMIT_NOFILE:
            return  # what the supervisor gave stays
        set_limit(kind, limits)

    resource.setrlimit = setrlimit


def choose_device(name):
    """Makes "cpu" or "gpu" MLX's default device; before mlx-lm is imported, which makes a stream on that device then."""
    if not name:
        return
    import mlx.core as mx

    device = {"cpu": mx.cpu, "gpu": mx.gpu}[name]
    if not mx.is_available(device):
        sys.exit(f"go_mlx_worker: MLX {metadata.version('mlx')} has no device {name!r} here: leave the device out, or choose another")
    mx.set_default_device(device)


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

    allow_any_file_limit()
    choose_device(os.environ.get("GO_MLX_WORKER_DEVICE"))
    from . import requirements

    requirements.check()  # before anything that imports what it looks for
    from .server import Server

    # Without a buffer there is no lock that the reading thread holds when the process ends. The end is at once, also after an
    # exception: what Python would tear down, the system takes back sooner, and nothing is left to be written.
    reader = open(0, "rb", buffering=0, closefd=False)
    status = 1
    try:
        status = Server(reader, channel, progress).run()
        sys.stderr.flush()
    except BaseException:  # SIGINT's, too
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
