"""One step of mlx-lm's tuner, to a safetensors file: loss, gradients and what AdamW makes of the parameters.

stdin: {"ids": [[...]], "lengths": [[offset, length], ...], "rate", "decay"}; arguments: model, adapter folder, output file.
"""

import json
import sys

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.tuner.trainer import default_loss

model, _ = load(sys.argv[1], adapter_path=sys.argv[2])
model.freeze()
for _, module in model.named_modules():
    module.unfreeze(keys=["lora_a", "lora_b"], recurse=False, strict=False)
model.train()
request = json.load(sys.stdin)
(loss, tokens), gradients = nn.value_and_grad(model, default_loss)(
    model, mx.array(request["ids"]), mx.array(request["lengths"])
)
out = {"loss": loss, "tokens": tokens.astype(mx.float32)}
out.update({f"gradient.{k}": v for k, v in tree_flatten(gradients)})
optimizer = optim.AdamW(learning_rate=request["rate"], weight_decay=request["decay"])
optimizer.update(model, gradients)
out.update({f"updated.{k}": v for k, v in tree_flatten(model.trainable_parameters())})
mx.save_safetensors(sys.argv[3], {k: v.astype(mx.float32) for k, v in out.items()})
print(json.dumps(len(gradients)))
