"""Turns copies of the trained model's folder into random Mistrals with the same tokenizer: an architecture
that the native engine does not have.

Three arguments for each: the folder; the seed, 1 by default; a folder to make for a random LoRA adapter, or none. stdout: true
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers


def make(folder, seed, adapter):
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = {
        "model_type": "mistral",  # for mlx-lm another name of llama
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": [1, 5],
    }
    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    if adapter is None:
        return
    adapter.mkdir()
    settings = {"rank": 4, "scale": 20.0, "dropout": 0.0}
    model.freeze()
    linear_to_lora_layers(model, 2, settings)
    weights = tree_map(lambda w: mx.random.normal(w.shape), model.trainable_parameters())
    mx.save_safetensors(str(adapter / "adapters.safetensors"), dict(tree_flatten(weights)))
    (adapter / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings}))


arguments = sys.argv[1:]
while arguments:
    folder, seed, adapter, *arguments = arguments + [None] * (3 - len(arguments))
    make(Path(folder), int(seed or 1), adapter and Path(adapter))
print("true")
