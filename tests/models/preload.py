"""Starts the program again with OpenBLAS, where Debian's libopenblas0-pthread is installed: MLX's CPU wheel links the reference
BLAS, which is many times slower. Import it before anything of MLX."""

import os
import sys

OPENBLAS = "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0"

if os.path.exists(OPENBLAS) and "LD_PRELOAD" not in os.environ:
    # One BLAS thread: attention's matrices are so small that waking a second one costs ten times more.
    settings = {"LD_PRELOAD": OPENBLAS, "OPENBLAS_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
