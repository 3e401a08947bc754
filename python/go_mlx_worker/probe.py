"""python -m go_mlx_worker.probe FOLDER [--trust-remote-code]: what mlx-lm would make of a model folder, as JSON.

Only config.json and the headers of the weight files are read: MLX loads arrays when they are first used, and none is.
"""

import argparse
import importlib
import inspect
import json
import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_config, load_model

# Architectures that the native engine has, with the file that has them and the least that builds one.
NATIVE = {
    "gemma3_text": ("native/internal/decoder/gemma3.go", {"model_type": "gemma3_text"}),
    "llama": ("native/internal/decoder/llama.go", {"model_type": "llama", "rope_theta": 10000.0}),
    "qwen2": ("native/internal/decoder/llama.go", {"model_type": "qwen2", "rope_theta": 10000.0}),
    "qwen3": (
        "native/internal/decoder/llama.go",
        {"model_type": "qwen3", "head_dim": 16, "max_position_embeddings": 64, "rope_theta": 10000.0, "tie_word_embeddings": True},
    ),
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "rms_norm_eps": 1e-6,
    "head_dim": 16,
}
ACTIVATIONS = ["swiglu", "silu", "gelu_approx", "gelu", "relu2", "relu", "sigmoid", "tanh"]


def probe(path, trust):
    config = load_config(Path(path))
    out = {"model_type": config.get("model_type", ""), "supported": False, "reason": ""}
    found = {}

    def record(self, weights, strict=True):
        found["wanted"] = dict(tree_flatten(self.parameters()))
        found["given"] = dict(weights)
        return self

    original = nn.Module.load_weights
    nn.Module.load_weights = record
    try:
        model, _ = load_model(Path(path), lazy=True, strict=False, trust_remote_code=trust)
    except Exception as e:
        out["reason"] = f"{type(e).__name__}: {e}"
        return out
    finally:
        nn.Module.load_weights = original
    wanted, given = found["wanted"], found["given"]
    out["supported"] = True
    out["file"] = _file_of(type(model))
    out["missing"] = sorted(wanted.keys() - given.keys())
    out["extra"] = sorted(given.keys() - wanted.keys())
    out["misshaped"] = [
        {"name": name, "shape": list(given[name].shape), "wanted": list(wanted[name].shape)}
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    out["weight_bytes"] = sum(v.nbytes for v in given.values())
    layers = getattr(model, "layers", None) or []
    out["layers"] = len(layers)
    out["kv_bytes_per_token"] = _kv_bytes(config, len(layers), given)
    if layers:
        out["checklist"], out["nearest"] = _checklist(model, layers)
    return out


def _files(cls):
    """The source files of a class and of those it is made from, MLX's own left out."""
    files = []
    for c in cls.__mro__:
        functions = [f for f in vars(c).values() if inspect.isfunction(f) and f.__module__ == c.__module__]
        if functions and not c.__module__.startswith("mlx.") and c.__module__ != "builtins":
            files.append(Path(functions[0].__code__.co_filename))
    return list(dict.fromkeys(files))


def _file_of(cls):
    """The source file, from the package's folder on, or beside the weights."""
    path = _files(cls)[0]
    return str(Path(*path.parts[path.parts.index("mlx_lm") :])) if "mlx_lm" in path.parts else path.name


def _kv_bytes(config, layers, weights):
    """Of an attention that keeps keys and values of every head; 0 where config.json does not say how many there are."""
    text = config.get("text_config") or config
    heads = text.get("num_attention_heads") or 0
    kv_heads = text.get("num_key_value_heads") or heads
    head_dim = text.get("head_dim") or (text.get("hidden_size", 0) // heads if heads else 0)
    sizes = [v.itemsize for k, v in weights.items() if k.endswith("norm.weight")]
    return 2 * layers * kv_heads * head_dim * (sizes[0] if sizes else 2)


def _modules(layer):
    """path -> class of the modules that do something themselves."""
    return {name: type(m).__name__ for name, m in layer.named_modules() if name and not m.children()}


def _describe(module):
    parts = []
    for name in ("dims", "base", "traditional", "scale", "eps"):
        value = getattr(module, name, None)
        if isinstance(value, (int, float, bool)):
            parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    weight = getattr(module, "weight", None)
    if isinstance(weight, mx.array):
        parts.append("x".join(map(str, weight.shape)))
    if getattr(module, "bias", None) is not None and isinstance(module.bias, mx.array):
        parts.append("bias")
    return f"{type(module).__name__}({', '.join(parts)})"


def _checklist(model, layers):
    """What a port must have, and the native architecture that is most like it."""
    kinds = {}
    for i, layer in enumerate(layers):
        key = json.dumps(_modules(layer), sort_keys=True)
        kinds.setdefault(key, []).append(i)
    source = "\n".join(f.read_text() for f in _files(type(model)))
    lines = [f"{len(kinds)} kinds of layers: " + "; ".join(_numbers(i) for i in kinds.values())] if len(kinds) > 1 else []
    for indexes in kinds.values():
        modules = dict(layers[indexes[0]].named_modules())
        leaves = [(name, m) for name, m in modules.items() if name and not m.children()]
        title = f"layers {_numbers(indexes)}, " if len(kinds) > 1 else ""
        for what, words in (("norms", "norm"), ("positions", "rope|rotary")):
            these = [f"{name} {_describe(m)}" for name, m in leaves if re.search(words, f"{name} {type(m).__name__}", re.I)]
            lines.append(f"{title}{what}: {', '.join(these) or 'none'}")
        rest = [
            f"{name} {_describe(m)}"
            for name, m in leaves
            if not re.search("norm|rope|rotary", f"{name} {type(m).__name__}", re.I)
        ]
        lines.append(f"{title}other modules: {', '.join(rest)}")
        bare = [
            f"{name + '.' if name else ''}{key} {'x'.join(map(str, value.shape))}"
            for name, m in modules.items()
            if m.children()
            for key, value in m.items()
            if isinstance(value, mx.array)
        ]
        if bare:
            lines.append(f"{title}parameters outside of modules: {', '.join(bare)}")
    used = [a for a in ACTIVATIONS if re.search(rf"\b(nn\.)?{a}\b", source)]
    lines.append(f"activations in its source: {', '.join(used) or 'none known'}")
    for word, note in (
        (r"SwitchGLU|SwitchMLP|SwitchLinear", "experts: a router picks some of the MLPs for each token"),
        (r"RotatingKVCache|sliding_window", "sliding windows"),
        (r"ArraysCache|MambaCache|conv_state|ssm", "state that is not a KV cache (recurrent or convolutional layers)"),
        (r"kv_lora_rank|kv_a_proj", "latent attention: keys and values are projected up from a smaller vector"),
        (r"sinks", "attention sinks"),
        (r"softcap", "logits or scores are capped with tanh"),
        (r"clip_qkv", "queries, keys and values are clipped"),
        (r"alibi", "ALiBi in place of rotation"),
        (r"\bscale_emb\b|embedding_multiplier|hidden_size\s*\*\*\s*0\.5", "embeddings are scaled"),
        (r"logit_scale|logits_scaling", "logits are scaled"),
    ):
        if re.search(word, source):
            lines.append(note)
    return lines, _nearest(_modules(layers[0]))


def _numbers(indexes):
    """0-3, 7: ranges of numbers that follow each other."""
    ranges = []
    for i in indexes:
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges)


def _nearest(modules):
    best = None
    for name, (file, config) in NATIVE.items():
        arch = importlib.import_module(f"mlx_lm.models.{name}")
        theirs = _modules(arch.Model(arch.ModelArgs.from_dict({**SMALL, **config})).layers[0])
        same = set(modules) & set(theirs)
        likeness = len(same) / len(set(modules) | set(theirs))
        if best is None or likeness > best["likeness"]:
            best = {
                "architecture": name,
                "file": file,
                "likeness": round(likeness, 3),
                "more": sorted(f"{k} {modules[k]}" for k in modules.keys() - theirs.keys()),
                "less": sorted(f"{k} {theirs[k]}" for k in theirs.keys() - modules.keys()),
            }
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--trust-remote-code", action="store_true")
    args = parser.parse_args()
    print(json.dumps(probe(args.folder, args.trust_remote_code)))


if __name__ == "__main__":
    main()
