"""Turns a copy of the trained model's folder into a random Llama with the same tokenizer.

argument 1: the folder; stdout: true
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama

folder = Path(sys.argv[1])
vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
config = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": vocab,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": [1, 5],
}
mx.random.seed(1)
model = llama.Model(llama.ModelArgs.from_dict(config))
mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
(folder / "config.json").write_text(json.dumps(config))
print("true")
