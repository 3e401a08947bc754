"""Trains a LoRA together with a linear head on the state that classifiers read, and saves the LoRA alone, for both engines (--adapter).

    go-mlx convert GEMMA.gguf --dtype float32 --out build/quality/float32
    python tests/quality/lora.py build/quality STRINGS EPOCHS

The head alone would need nothing of this; the LoRA is what makes states better. Layers behind the one that is read, and the output layer, are not
computed; layers in front of the LoRAs are computed once for each string. JAX computes, since its products on a CPU are some twenty times as fast as
those of MLX. The model is Gemma 3, whose parts are written down here.
"""

import json
import math
import pathlib
import random
import sys
import time

import jax
import jax.numpy as jnp
import numpy
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

PROMPT = 'Software that says "{}" is used for'
LONGEST = 28  # tokens of a string with its prompt: longer ones are left out, and shorter ones padded at their ends
READ, FIRST = 15, 12  # the layer whose output is read, and the first with a LoRA, from 1 on
BATCH, RANK, SCALE = 16, 8, 2.0
RATE, HEAD_RATE, DECAY = 5e-4, 5e-3, 0.01
KEYS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def norm(x, weight=None):
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return x if weight is None else x * (1 + weight)


def rope(x, base):
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[-2])[:, None] * base ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def layer(h, w, lora, base, config):
    """A block of Gemma 3 for texts shorter than its window: h is [texts, tokens, size]."""

    def linear(x, key):
        y = x @ w[f"{key}.weight"].T
        if key in lora:
            y = y + SCALE * (x @ lora[key]["a"]) @ lora[key]["b"]
        return y

    texts, tokens, _ = h.shape
    heads, size = config["num_attention_heads"], config["head_dim"]

    def split(x, n):
        return x.reshape(texts, tokens, n, size).transpose(0, 2, 1, 3)

    x = norm(h, w["input_layernorm.weight"])
    q = rope(norm(split(linear(x, "self_attn.q_proj"), heads), w["self_attn.q_norm.weight"]), base)
    k = rope(norm(split(linear(x, "self_attn.k_proj"), 1), w["self_attn.k_norm.weight"]), base)
    v = split(linear(x, "self_attn.v_proj"), 1)
    scores = q @ k.transpose(0, 1, 3, 2) * config["query_pre_attn_scalar"] ** -0.5
    scores = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool)), scores, -1e9)
    mixed = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(texts, tokens, heads * size)
    h = h + norm(linear(mixed, "self_attn.o_proj"), w["post_attention_layernorm.weight"])
    x = norm(h, w["pre_feedforward_layernorm.weight"])
    x = linear(jax.nn.gelu(linear(x, "mlp.gate_proj"), approximate=True) * linear(x, "mlp.up_proj"), "mlp.down_proj")
    return h + norm(x, w["post_feedforward_layernorm.weight"])


class Gemma:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        self.embedding = weights["model.embed_tokens.weight"]
        self.layers = []
        for i in range(self.config["num_hidden_layers"]):
            front = f"model.layers.{i}."
            self.layers.append({k.removeprefix(front): jnp.asarray(v) for k, v in weights.items() if k.startswith(front)})

    def base(self, i):
        whole = (i + 1) % self.config["sliding_window_pattern"] == 0
        return self.config["rope_theta"] if whole else self.config.get("rope_local_base_freq", 10000)

    def run(self, h, first, last, weights, lora):
        for i in range(first, last):
            h = layer(h, weights[i - first], lora.get(str(i), {}), self.base(i), self.config)
        return h

    def embed(self, ids):
        return jnp.asarray(self.embedding[ids]) * math.sqrt(self.embedding.shape[1])


def read(out):
    lines = [line.rstrip("\n").split("\t") for line in (out / "train.tsv").open(encoding="utf-8")]
    tokenizer = Tokenizer.from_file(str(out / "float32" / "tokenizer.json"))
    labels = sorted({line[0] for line in lines})
    rows = [(labels.index(label), tokenizer.encode(PROMPT.format(text)).ids) for label, text, *_ in lines]
    return labels, [row for row in rows if len(row[1]) <= LONGEST]


def main():
    out, strings, epochs = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng, begin = random.Random(1), time.time()
    model = Gemma(out / "float32")
    labels, rows = read(out)
    rows = rng.sample(rows, min(strings, len(rows)))
    truth = numpy.array([label for label, _ in rows])
    ids = numpy.array([row + [0] * (LONGEST - len(row)) for _, row in rows])
    ends = numpy.array([len(row) - 1 for _, row in rows])
    weight = (1 / numpy.bincount(truth, minlength=len(labels)))[truth]

    front = jax.jit(lambda h, w: model.run(h, 0, FIRST - 1, w, {}))
    states = []
    for i in range(0, len(rows), BATCH):
        batch = numpy.resize(numpy.arange(i, min(i + BATCH, len(rows))), BATCH)  # of one size, so that JAX compiles once
        states.append(numpy.asarray(front(model.embed(ids[batch]), model.layers[: FIRST - 1]))[: len(rows) - i])
    states = numpy.concatenate(states)
    print(f"{len(rows)} strings, states of {FIRST - 1} layers in {time.time() - begin:.0f} s", flush=True)

    draw = numpy.random.default_rng(1)
    lora = {}
    for i in range(FIRST - 1, len(model.layers)):
        sizes = {key: model.layers[i][f"{key}.weight"].shape for key in KEYS}
        lora[str(i)] = {
            key: {"a": draw.uniform(-1, 1, (n, RANK)).astype("f") / math.sqrt(n), "b": numpy.zeros((RANK, m), "f")} for key, (m, n) in sizes.items()
        }
    head = {"weight": numpy.zeros((states.shape[-1], len(labels)), "f"), "bias": numpy.zeros(len(labels), "f")}
    parameters = {"lora": lora, "head": head}
    rates = {"lora": jax.tree.map(lambda _: RATE, lora), "head": jax.tree.map(lambda _: HEAD_RATE, head)}

    def loss(parameters, weights, h, ends, truth, weight):
        h = model.run(h, FIRST - 1, READ, weights, parameters["lora"])
        logits = norm(h[jnp.arange(len(ends)), ends]) @ parameters["head"]["weight"] + parameters["head"]["bias"]
        return -(jax.nn.log_softmax(logits)[jnp.arange(len(ends)), truth] * weight).sum() / weight.sum()

    @jax.jit
    def step(parameters, first, second, t, share, weights, *batch):
        """One update by AdamW; share scales the rates."""
        value, gradient = jax.value_and_grad(loss)(parameters, weights, *batch)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, second, gradient)

        def update(p, m, s, rate):
            return p - share * rate * (m / (1 - 0.9**t) / (jnp.sqrt(s / (1 - 0.999**t)) + 1e-8) + DECAY * p)

        return jax.tree.map(update, parameters, first, second, rates), first, second, value

    first = second = jax.tree.map(numpy.zeros_like, parameters)
    steps, t, total = epochs * (len(rows) // BATCH), 0, 0.0
    weights = model.layers[FIRST - 1 : READ]
    for _ in range(epochs):
        order = numpy.array(rng.sample(range(len(rows)), len(rows)))
        for i in range(0, len(rows) - BATCH + 1, BATCH):
            at, t = order[i : i + BATCH], t + 1
            share = min(1, t / 10) * 0.5 * (1 + math.cos(math.pi * (t - 1) / steps))
            parameters, first, second, value = step(
                parameters, first, second, float(t), share, weights, states[at], ends[at], truth[at], weight[at].astype("f")
            )
            total += float(value)
            if t % 10 == 0:
                print(f"batch {t} of {steps}, loss {total / 10:.3f}, {time.time() - begin:.0f} s", flush=True)
                total = 0.0

    folder = out / "lora" / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "fine_tune_type": "lora",
        "num_layers": len(model.layers) - FIRST + 1,
        "lora_parameters": {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": list(KEYS)},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    tensors = {}
    for i, keys in parameters["lora"].items():
        for key, pair in keys.items():
            for side in "ab":
                tensors[f"model.layers.{i}.{key}.lora_{side}"] = numpy.ascontiguousarray(pair[side])
    save_file(tensors, folder / "adapters.safetensors")


if __name__ == "__main__":
    main()
