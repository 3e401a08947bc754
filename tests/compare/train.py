"""Seconds of every iteration of mlx-lm's tuner, as a JSON list: train.py MODEL DATA ITERATIONS BATCH_SIZE CHECKPOINT."""

import json
import sys
import time
import types

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm import load
from mlx_lm.tuner import TrainingArgs, linear_to_lora_layers, train
from mlx_lm.tuner.datasets import CacheDataset, load_dataset

path, data, iterations, batch, checkpoint = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "true"
model, tokenizer = load(path)
model.freeze()
linear_to_lora_layers(model, len(model.layers), {"rank": 8, "scale": 20.0, "dropout": 0.0})
arguments = types.SimpleNamespace(data=data, mask_prompt=True, train=True, test=False, hf_dataset=False)
examples, _, _ = load_dataset(arguments, tokenizer)
marks = []


class Callback:
    def on_train_loss_report(self, info):
        marks.append(1 / info["iterations_per_second"])

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
print(json.dumps(marks), file=out)
