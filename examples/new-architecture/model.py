"""An architecture that no library knows: attention and MLP side by side in every block ("parallel blocks"), one norm for both,
normed queries and keys, squared ReLU, and a learned scale for each block's output.

mlx-lm imports this file because config.json names it as "model_file"; it wants the classes Model and ModelArgs.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import BaseModelArgs, create_attention_mask, scaled_dot_product_attention


@dataclass
class ModelArgs(BaseModelArgs):
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


class Attention(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.heads, self.kv_heads = args.num_attention_heads, args.num_key_value_heads
        self.scale = args.head_dim**-0.5
        self.q_proj = nn.Linear(args.hidden_size, self.heads * args.head_dim, bias=False)
        self.k_proj = nn.Linear(args.hidden_size, self.kv_heads * args.head_dim, bias=False)
        self.v_proj = nn.Linear(args.hidden_size, self.kv_heads * args.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * args.head_dim, args.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(args.head_dim, eps=args.rms_norm_eps)
        self.k_norm = nn.RMSNorm(args.head_dim, eps=args.rms_norm_eps)
        self.rope = nn.RoPE(args.head_dim, traditional=False, base=args.rope_theta)

    def __call__(self, x, mask, cache):
        rows, length, _ = x.shape

        def heads(projected, n):
            return projected.reshape(rows, length, n, -1).transpose(0, 2, 1, 3)

        queries = self.q_norm(heads(self.q_proj(x), self.heads))
        keys = self.k_norm(heads(self.k_proj(x), self.kv_heads))
        values = heads(self.v_proj(x), self.kv_heads)
        offset = cache.offset if cache is not None else 0
        queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        out = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(rows, length, -1))


class MLP(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.up_proj = nn.Linear(args.hidden_size, args.intermediate_size, bias=False)
        self.down_proj = nn.Linear(args.intermediate_size, args.hidden_size, bias=False)

    def __call__(self, x):
        return self.down_proj(nn.relu2(self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        self.self_attn, self.mlp = Attention(args), MLP(args)
        self.output_scale = mx.ones((args.hidden_size,))

    def __call__(self, x, mask=None, cache=None):
        y = self.norm(x)
        return x + self.output_scale * (self.self_attn(y, mask, cache) + self.mlp(y))


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args, self.model_type = args, args.model_type
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [Block(args) for _ in range(args.num_hidden_layers)]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, inputs, cache=None):
        h = self.embed_tokens(inputs)
        cache = cache or [None] * len(self.layers)
        mask = create_attention_mask(h, cache[0])
        for layer, c in zip(self.layers, cache):
            h = layer(h, mask, c)
        return self.embed_tokens.as_linear(self.norm(h))
