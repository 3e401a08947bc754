"""Makes a model folder of a real model's shape with random weights from a seed.

    python tests/models/random_model.py gemma3-1b OUT [--layers N] [--bits 4|8] [--shards N] [--seed S]
    python tests/models/random_model.py - < LINES    # one model a line, arguments between tabs

Saved by mlx-lm itself, so quantised and sharded folders look as its converter leaves them. The
tokenizer is the trained domain model's; ids beyond its vocabulary have no text.
"""

import argparse
import copy
import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm import utils
from mlx_lm.utils import quantize_model, save_config, save_model

WHOLE = utils.make_shards
TOKENIZER = Path(__file__).with_name("domains")

GEMMA3 = {
    "model_type": "gemma3_text",
    "rms_norm_eps": 1e-6,
    "vocab_size": 262144,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "query_pre_attn_scalar": 256,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 32768,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
QWEN3 = {
    "model_type": "qwen3",
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
QWEN2 = QWEN3 | {"model_type": "qwen2", "max_position_embeddings": 32768}
LLAMA3 = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    # Small enough that every kind of wavelength occurs in a short text.
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LONG = {"max_position_embeddings": 131072, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}


def multimodal(text):
    """The larger Gemma 3 models come with a vision part, of which mlx-lm keeps the config's form."""
    return {"model_type": "gemma3", "vocab_size": text["vocab_size"], "text_config": text}


def dims(hidden, layers, mlp, heads, kv_heads, head_dim, **rest):
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        **rest,
    }


PRESETS = {
    "gemma3-1b": GEMMA3 | dims(1152, 26, 6912, 4, 1, 256, sliding_window=512),
    "gemma3-4b": multimodal(GEMMA3 | LONG | dims(2560, 34, 10240, 8, 4, 256, sliding_window=1024)),
    "gemma3-27b": multimodal(
        GEMMA3 | LONG | dims(5376, 62, 21504, 32, 16, 128, sliding_window=1024, query_pre_attn_scalar=168)
    ),
    # Everything of the large ones in a size that tests can afford.
    "gemma3-small": multimodal(
        GEMMA3
        | LONG
        | dims(256, 7, 512, 4, 2, 64, sliding_window=48, sliding_window_pattern=3, vocab_size=4608, query_pre_attn_scalar=40)
    ),
    # As Sentence Transformers save them: see sentence_modules.
    "embeddinggemma-small": GEMMA3
    | dims(192, 4, 320, 3, 1, 64, sliding_window=16, sliding_window_pattern=2, vocab_size=4608, use_bidirectional_attention=True),
    "qwen3-embedding-small": QWEN3 | dims(192, 3, 320, 6, 2, 64, vocab_size=4608, tie_word_embeddings=True),
    "qwen3-8b": QWEN3 | dims(4096, 36, 12288, 32, 8, 128),
    "llama3-small": LLAMA3 | dims(192, 3, 320, 6, 2, 32, vocab_size=4608),
    "qwen2-small": QWEN2 | dims(192, 3, 320, 6, 2, 32, vocab_size=4608),
    "qwen3-small": QWEN3 | dims(192, 3, 320, 6, 2, 64, vocab_size=4608),
    "qwen3-small-tied": QWEN3 | dims(192, 3, 320, 6, 2, 64, vocab_size=4608, tie_word_embeddings=True),
}


def sentence_modules(out, preset, hidden, named):
    """The modules after the hidden states, and weights under the names without "model.", unless they are to keep theirs."""
    if not named:
        weights = mx.load(str(out / "model.safetensors"))
        mx.eval(weights)  # before the file is written over
        weights = {name.removeprefix("model."): value for name, value in weights.items()}
        mx.save_safetensors(str(out / "model.safetensors"), weights)
        (out / "model.safetensors.index.json").unlink()
    kinds = ["Transformer", "Pooling"] + ["Dense", "Dense"] * (preset == "embeddinggemma-small") + ["Normalize"]
    modules = []
    sizes = {2: (hidden, 4 * hidden), 3: (4 * hidden, hidden)}
    for i, kind in enumerate(kinds):
        path = out / (f"{i}_{kind}" if kind in ("Pooling", "Dense") else "")
        path.mkdir(exist_ok=True)
        modules.append({"idx": i, "name": str(i), "path": path.name if path != out else "", "type": f"sentence_transformers.models.{kind}"})
        if kind == "Pooling":
            modes = {"pooling_mode_mean_tokens": len(kinds) > 3, "pooling_mode_lasttoken": len(kinds) == 3}
            (path / "config.json").write_text(json.dumps({"word_embedding_dimension": hidden, **modes}))
        if kind == "Dense":
            wide, out_size = sizes[i]
            config = {"in_features": wide, "out_features": out_size, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
            (path / "config.json").write_text(json.dumps(config))
            mx.save_safetensors(str(path / "model.safetensors"), {"linear.weight": mx.random.normal((out_size, wide)) / wide**0.5})
    (out / "modules.json").write_text(json.dumps(modules))
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    (out / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))


def split(weights, count):
    """About equal shards, by bytes."""
    limit = sum(v.nbytes for v in weights.values()) / count
    shards, size = [{}], 0
    for name, value in weights.items():
        if size >= limit and len(shards) < count:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    return shards


def main():
    if sys.argv[1:] == ["-"]:
        for line in sys.stdin:
            make(line.rstrip("\n").split("\t"))
    else:
        make(sys.argv[1:])


def make(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="fewer layers than the real model has")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantise")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--named", action="store_true", help="an embedding model whose weights keep mlx-lm's names")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)

    config = copy.deepcopy(PRESETS[args.preset]) | {"eos_token_id": [1, 5], "torch_dtype": "bfloat16"}
    if args.layers:
        text = config.get("text_config") or config
        text["num_hidden_layers"] = args.layers
        if "sliding_window_pattern" in text:  # mlx-lm wants a global layer
            text["sliding_window_pattern"] = min(text["sliding_window_pattern"], args.layers)
    mx.random.seed(args.seed)
    model_class, args_class = utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    text = getattr(model, "language_model", model)
    if config["model_type"].startswith("gemma3"):
        text.sanitize({})  # ties the embeddings
    model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    mx.eval(model.parameters())
    if args.bits:
        model, config = quantize_model(model, config, args.group_size, args.bits)
    utils.make_shards = WHOLE if args.shards == 1 else lambda weights: split(weights, args.shards)
    save_model(args.out, model)
    save_config(config, args.out / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, args.out / name)
    if "embedding" in args.preset:
        sentence_modules(args.out, args.preset, config["hidden_size"], args.named)
    print(args.out)


if __name__ == "__main__":
    main()
