"""Trains a LoRA together with a linear head on the state that classifiers read, and saves the LoRA alone, for both engines (--adapter).

    go-mlx convert MODEL.gguf --dtype float32 --out build/quality/float32
    python tests/quality/lora.py build/quality STRINGS EPOCHS

Layers behind the one that is read, and the output layer, are not computed; layers in front of the LoRAs are computed once for each string.
So an epoch takes minutes on a CPU, where language modelling with an output layer of 262,144 tokens takes hours.
"""

import json
import pathlib
import random
import sys
import time

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load

PROMPT = 'Software that says "{}" is used for'
LONGEST = 28  # tokens of a string with its prompt: longer ones are left out
READ, FIRST = 16, 13  # the layer whose output is read, and the first with a LoRA, from 1 on
BATCH, RATE, RANK, SCALE, HEAD_RATE = 16, 5e-4, 8, 2.0, 5e-3


class Trained(nn.Module):
    def __init__(self, layers, size, labels):
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(size, labels)

    def __call__(self, h, last):
        mask = nn.MultiHeadAttention.create_additive_causal_mask(h.shape[1])
        for layer in self.layers:
            h = layer(h, mask, None)
        h = h[mx.arange(len(last)), last]
        return self.head(h * mx.rsqrt(mx.mean(h * h, axis=-1, keepdims=True) + 1e-12))


def batches(rows, rng):
    """Strings of like length together, in random order."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][1]), rng.random()))
    out = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    rng.shuffle(out)
    return out


def main():
    out = pathlib.Path(sys.argv[1])
    strings, epochs = (int(x) for x in sys.argv[2:4])
    mx.set_default_device(mx.cpu)
    mx.random.seed(1)
    rng = random.Random(1)
    model, tokenizer = load(str(out / "float32"))
    model.freeze()
    lines = [line.rstrip("\n").split("\t") for line in (out / "train.tsv").open(encoding="utf-8")]
    labels = sorted({line[0] for line in lines})
    rows = [(labels.index(label), tokenizer.encode(PROMPT.format(text))) for label, text, *_ in lines]
    rows = [row for row in rows if len(row[1]) <= LONGEST]
    rows = rng.sample(rows, min(strings, len(rows)))
    counts = [sum(label == i for label, _ in rows) for i in range(len(labels))]
    print(f"{len(rows)} of {len(lines)} strings, {epochs} epochs", flush=True)

    inner, begin = model.model, time.time()
    frozen = inner.layers[: FIRST - 1]
    states = {}
    for batch in batches(rows, rng):
        width = max(len(rows[i][1]) for i in batch)
        h = inner.embed_tokens(mx.array([rows[i][1] + [0] * (width - len(rows[i][1])) for i in batch]))
        h = h * mx.array(h.shape[-1] ** 0.5)
        mask = nn.MultiHeadAttention.create_additive_causal_mask(width)
        for layer in frozen:
            h = layer(h, mask, None)
        mx.eval(h)
        for row, i in zip(h, batch):
            states[i] = row[: len(rows[i][1])]
        mx.eval([states[i] for i in batch])
    print(f"states of {FIRST - 1} layers in {time.time() - begin:.0f} s", flush=True)

    keys = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, len(inner.layers) - FIRST + 1, parameters)
    trained = Trained(inner.layers[FIRST - 1 : READ], states[0].shape[-1], len(labels))
    steps = epochs * len(batches(rows, rng))
    optimizers = optim.MultiOptimizer(
        [optim.AdamW(optim.cosine_decay(HEAD_RATE, steps)), optim.AdamW(optim.cosine_decay(RATE, steps))],
        [lambda path, _: path.startswith("head")],
    )

    def loss(h, last, truth, weights):
        return (nn.losses.cross_entropy(trained(h, last), truth) * weights).sum() / weights.sum()

    step, done, total = nn.value_and_grad(trained, loss), 0, 0.0
    for _ in range(epochs):
        for batch in batches(rows, rng):
            width = max(len(rows[i][1]) for i in batch)
            h = mx.stack([mx.pad(states[i], [(0, width - len(states[i])), (0, 0)]) for i in batch])
            truth = [rows[i][0] for i in batch]
            value, gradient = step(h, mx.array([len(rows[i][1]) - 1 for i in batch]), mx.array(truth), mx.array([1 / counts[t] for t in truth]))
            optimizers.update(trained, gradient)
            mx.eval(trained.trainable_parameters(), optimizers.state, value)
            done, total = done + 1, total + value.item()
            if done % 20 == 0 or done == steps:
                print(f"batch {done} of {steps}, loss {total / (done % 20 or 20):.3f}, {time.time() - begin:.0f} s", flush=True)
                total = 0.0

    folder = out / "lora" / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    config = {"fine_tune_type": "lora", "num_layers": len(inner.layers) - FIRST + 1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    mx.save_safetensors(str(folder / "adapters.safetensors"), {k: v for k, v in tree_flatten(model.parameters()) if "lora_" in k})


main()
