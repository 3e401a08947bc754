"""A GGUF file in the shape of Gemma 3 1B with random weights, with the tokenizer of another Gemma 3: shape_gguf.py FROM TO BF16|Q4_0|Q4_K_M.
Q4_K_M gives each matrix the type that its namesake has in FROM, which is of that mixture."""

import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

HIDDEN, LAYERS, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 1152, 26, 6912, 4, 1, 256, 262144

source = GGUFReader(sys.argv[1])
mixture = {t.name: t.tensor_type for t in source.tensors} if sys.argv[3] == "Q4_K_M" else None
source_layers = source.fields[f"{source.fields['general.architecture'].contents()}.block_count"].contents()
arch = source.fields["general.architecture"].contents()
changed = {
    f"{arch}.embedding_length": HIDDEN, f"{arch}.block_count": LAYERS, f"{arch}.feed_forward_length": INNER,
    f"{arch}.attention.head_count": HEADS, f"{arch}.attention.head_count_kv": KV_HEADS,
    f"{arch}.attention.key_length": HEAD_DIM, f"{arch}.attention.value_length": HEAD_DIM,
}
out = GGUFWriter(sys.argv[2], arch)
for name, field in source.fields.items():
    if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
        continue
    of = field.types[0]
    sub = field.types[-1] if of == GGUFValueType.ARRAY else None
    out.add_key_value(name, changed.get(name, field.contents()), of, sub_type=sub)

random = np.random.default_rng(1)


def kind_of(name):
    if mixture is None:
        return GGMLQuantizationType[sys.argv[3]]
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        name = f"blk.{int(layer) * source_layers // LAYERS}.{rest}"
    return mixture[name]


# Where the blocks of types that quants cannot make have their float16 scales, and what these shall be.
SCALES = {GGMLQuantizationType.Q4_K: {0: 2e-4, 2: 2e-3}, GGMLQuantizationType.Q6_K: {208: 1e-5}}


def random_blocks(rows, columns, kind):
    weights, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * columns // weights, size), dtype=np.uint8)
    for at, scale in SCALES[kind].items():
        blocks[:, at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def matrix(name, rows, columns):
    kind = kind_of(name)
    if kind in SCALES:
        out.add_tensor(name, random_blocks(rows, columns, kind), raw_dtype=kind)
        return
    values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
    if kind == GGMLQuantizationType.BF16:
        bits = values.view(np.uint32)
        data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.uint8).reshape(rows, -1)
    else:
        data = quants.quantize(values, kind)
    out.add_tensor(name, data, raw_dtype=kind)


def norm(name, size):
    out.add_tensor(name, np.ones(size, np.float32))


matrix("token_embd.weight", VOCABULARY, HIDDEN)
norm("output_norm.weight", HIDDEN)
for layer in range(LAYERS):
    at = f"blk.{layer}."
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        norm(at + name + ".weight", HIDDEN)
    for name in ("attn_q_norm", "attn_k_norm"):
        norm(at + name + ".weight", HEAD_DIM)
    matrix(at + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
    matrix(at + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
    matrix(at + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
    matrix(at + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
    matrix(at + "ffn_gate.weight", INNER, HIDDEN)
    matrix(at + "ffn_up.weight", INNER, HIDDEN)
    matrix(at + "ffn_down.weight", HIDDEN, INNER)
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
