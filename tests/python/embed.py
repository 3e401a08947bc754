"""Vectors of texts, one text at a time, from the layers of mlx-lm's models with masks of our own.

stdin: [[ids], ...]; argument 1: model folder in the Sentence Transformers' layout; stdout: [[floats], ...].
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm import utils

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
model_class, args_class = utils._get_classes(config)
model = model_class(args_class.from_dict(config))
weights = {"model." + name: value for name, value in mx.load(str(folder / "model.safetensors")).items()}
model.load_weights(list(model.sanitize(weights).items()))
modules = [m["type"].rsplit(".", 1)[1] for m in json.loads((folder / "modules.json").read_text())]
dense = [mx.load(str(folder / f"{i}_Dense" / "model.safetensors"))["linear.weight"] for i, kind in enumerate(modules) if kind == "Dense"]


def hidden(ids):
    x = mx.array([ids])
    if not config.get("use_bidirectional_attention"):
        return model.model(x)[0]
    h = model.model.embed_tokens(x)
    h = h * mx.array(config["hidden_size"] ** 0.5, mx.bfloat16).astype(h.dtype)
    position = mx.arange(len(ids))
    distance = mx.abs(position[:, None] - position[None])
    near = distance < config["sliding_window"] // 2 + 1
    for i, layer in enumerate(model.model.layers):
        sliding = (i + 1) % config["sliding_window_pattern"] != 0
        h = layer(h, near if sliding else distance >= 0, None)
    return model.model.norm(h)[0]


vectors = []
for ids in json.load(sys.stdin):
    h = hidden(ids).astype(mx.float32)
    x = h.mean(axis=0) if dense else h[-1]
    for weight in dense:
        x = weight @ x
    vectors.append((x / mx.linalg.norm(x)).tolist())
print(json.dumps(vectors))
