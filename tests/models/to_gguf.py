"""Writes the weights of a model folder as GGUF, with llama.cpp's names and conventions.

    python tests/models/to_gguf.py MODEL OUT.gguf [--type f32|f16|q8_0|q4_0]

Without a vocabulary: whoever runs the file brings token ids.
"""

import argparse
import json
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
PRE_NORM = {"post_attention_layernorm": "ffn_norm"}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
ARCHITECTURES = {"gemma3_text": "gemma3", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TYPES = {"f32": None, "f16": None, "q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}


def name_of(name, gemma):
    name, suffix = name.removeprefix("language_model.").removeprefix("model.").rsplit(".", 1)
    names = NAMES | (SANDWICH if gemma else PRE_NORM)
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        return f"blk.{layer}.{names[rest]}.{suffix}"
    return f"{names[name]}.{suffix}"


def interleave(weight, heads):
    """llama.cpp keeps the two halves of a rotated pair beside each other in models of type llama."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=sorted(TYPES), default="f16")
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    config = config.get("text_config", config)
    kind = config["model_type"]
    gemma = kind.startswith("gemma3")
    arch = ARCHITECTURES[kind]
    w = gguf.GGUFWriter(args.out, arch)
    w.add_block_count(config["num_hidden_layers"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_key_length(config["head_dim"])
    w.add_value_length(config["head_dim"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_vocab_size(config["vocab_size"])
    if gemma:
        w.add_sliding_window(config["sliding_window"])
        w.add_uint32(f"{arch}.attention.sliding_window_pattern", config["sliding_window_pattern"])
    w.add_tokenizer_model("none")
    for file in sorted(args.model.glob("model*.safetensors")):
        for name, value in sorted(mx.load(str(file)).items()):
            value = np.array(value.astype(mx.float32))
            if gemma and "norm" in name:
                value = value + 1
            if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
                value = interleave(value, heads)
            qtype = TYPES[args.type]
            if value.ndim == 1 or args.type == "f32":
                w.add_tensor(name_of(name, gemma), value)
            elif qtype is None:
                w.add_tensor(name_of(name, gemma), value.astype(np.float16))
            else:
                w.add_tensor(name_of(name, gemma), gguf.quants.quantize(value, qtype), raw_dtype=qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
