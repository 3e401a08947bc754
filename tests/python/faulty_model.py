"""The architecture of the trained model with faults, loaded by mlx-lm as a checkpoint's own code.

faults.json beside it maps a token id to what happens when the model is given that token:
"die", "raise", "oom", "crash", "hang", "sleep" or "print". With "once": FILE in it a fault happens only while FILE is not there.
"""

import json
import os
import signal
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.gemma3_text import Model as Gemma
from mlx_lm.models.gemma3_text import ModelArgs  # noqa: F401: mlx-lm looks for it here

FAULTS = json.loads((Path(__file__).parent / "faults.json").read_text())


def first_time():
    once = FAULTS.get("once")
    if once is None:
        return True
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def cause(fault):
    if not first_time():
        return
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "raise":
        raise ValueError("this model does not like the token")
    if fault == "oom":
        bytearray(1 << 62)
    if fault == "crash":
        mx.eval(mx.zeros((1 << 20, 1 << 20, 1 << 8)) + 1)  # MLX's CPU allocator does not look for null
    if fault == "hang":
        time.sleep(3600)
    if fault == "sleep":
        time.sleep(0.02)
    if fault == "print":
        print("x" * 1000, flush=True)
        os.write(1, b"\0\0\0\x05to the pipe that frames had\n")


class Model(Gemma):
    def __call__(self, inputs, cache=None, **kwargs):
        for token in set(inputs.flatten().tolist()):
            if str(token) in FAULTS:
                cause(FAULTS[str(token)])
        return super().__call__(inputs, cache=cache, **kwargs)
