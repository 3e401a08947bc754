"""make_checkpoint.py OUT: a small checkpoint of model.py with random weights, in place of one that you trained."""

import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
from model import Model, ModelArgs  # noqa: E402

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
tokenizer = here.parent.parent / "tests" / "models" / "domains"
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(tokenizer / name, out)
config = {
    "model_type": "parallel_blocks",
    "model_file": "model.py",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 256,
    "vocab_size": json.loads((tokenizer / "config.json").read_text())["vocab_size"],
}
mx.random.seed(7)
model = Model(ModelArgs.from_dict(config))
model.update(tree_map(lambda a: a.astype(mx.bfloat16), model.parameters()))
mx.save_safetensors(str(out / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"})
(out / "config.json").write_text(json.dumps(config, indent=1))
shutil.copy(here / "model.py", out)
print(out)
