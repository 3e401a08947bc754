"""The values of GGUF blocks, as the package gguf makes them: {type: blocks in hex} to {type: float32 in hex}."""

import json
import sys

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

out = {}
for name, blocks in json.load(sys.stdin).items():
    data = np.frombuffer(bytes.fromhex(blocks), dtype=np.uint8)
    with np.errstate(all="ignore"):
        out[name] = dequantize(data, GGMLQuantizationType[name]).astype(np.float32).tobytes().hex()
json.dump(out, sys.stdout)
