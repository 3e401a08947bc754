"""Iterations of mlx-lm's tuner as a JSON object with their seconds and tokens, and the process's peak of memory in bytes:
train.py MODEL DATA ITERATIONS BATCH_SIZE MASK_PROMPT CHECKPOINT."""

import json
import resource
import sys
import types

import mlx.optimizers as optim
from mlx_lm import load
from mlx_lm.tuner import TrainingArgs, linear_to_lora_layers, train
from mlx_lm.tuner.datasets import CacheDataset, load_dataset

path, data, iterations, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
mask_prompt, checkpoint = sys.argv[5] == "true", sys.argv[6] == "true"
model, tokenizer = load(path)
model.freeze()
linear_to_lora_layers(model, len(model.layers), {"rank": 8, "scale": 20.0, "dropout": 0.0})
arguments = types.SimpleNamespace(data=data, mask_prompt=mask_prompt, train=True, test=False, hf_dataset=False)
examples, _, _ = load_dataset(arguments, tokenizer)
seconds, tokens = [], []


class Callback:
    def on_train_loss_report(self, info):
        seconds.append(1 / info["iterations_per_second"])
        tokens.append(info["tokens_per_second"] * seconds[-1])

    def on_val_loss_report(self, info):
        pass


sys.stdout, out = sys.stderr, sys.stdout
train(
    model=model,
    optimizer=optim.AdamW(learning_rate=1e-5),
    train_dataset=CacheDataset(examples),
    args=TrainingArgs(
        batch_size=batch,
        iters=iterations,
        steps_per_report=1,
        steps_per_save=10**6,
        adapter_file="/dev/null",
        grad_checkpoint=checkpoint,
        max_seq_length=2048,
    ),
    training_callback=Callback(),
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "tokens": tokens, "peak": peak}), file=out)
