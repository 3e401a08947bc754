"""Every layer's states of a prompt, as mlx-lm computes them, to a safetensors file.

stdin: [[ids], ...]; argument 1: model folder; argument 2: output file; stdout: the number of prompts.
"""

import json
import sys

import mlx.core as mx
from mlx_lm import load
from mlx_lm.models.cache import make_prompt_cache

model, _ = load(sys.argv[1])
recorded = []


def record(layer):
    class Recording(type(layer)):
        def __call__(self, x, *args, **kwargs):
            if not recorded:
                recorded.append(x)
            out = super().__call__(x, *args, **kwargs)
            recorded.append(out)
            return out

    layer.__class__ = Recording


for layer in model.layers:
    record(layer)

arrays = {}
prompts = json.load(sys.stdin)
for p, ids in enumerate(prompts):
    recorded.clear()
    logits = model(mx.array([ids]), cache=make_prompt_cache(model))
    for i, state in enumerate(recorded):
        arrays[f"{p}.layer.{i}"] = state[0].astype(mx.float32)
    arrays[f"{p}.logits"] = logits[0].astype(mx.float32)
    mx.eval(list(arrays.values()))
mx.save_safetensors(sys.argv[2], arrays)
print(len(prompts))
