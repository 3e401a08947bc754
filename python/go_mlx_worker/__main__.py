"""python -m go_mlx_worker: takes frames on stdin, answers on stdout, prints go to stderr."""

import faulthandler
import os
import sys


def main():
    # Frames get a descriptor of their own; descriptor 1 becomes stderr, so that a library's print
    # cannot get between two frames.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    faulthandler.enable()

    from .server import Server

    sys.exit(Server(sys.stdin.buffer, out).run())


if __name__ == "__main__":
    main()
