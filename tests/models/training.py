"""The training loop of the models in this folder."""

import time

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


def train(model, batches, loss_fn, steps, learning_rate, weight_decay):
    """AdamW with a warm-up and a cosine, so many batches.next()."""
    warmup = max(steps // 20, 1)
    schedule = optim.join_schedules(
        [
            optim.linear_schedule(1e-6, learning_rate, warmup),
            optim.cosine_decay(learning_rate, steps - warmup, learning_rate * 0.02),
        ],
        [warmup],
    )
    optimizer = optim.AdamW(schedule, weight_decay=weight_decay)
    step = nn.value_and_grad(model, loss_fn)
    start, running = time.time(), None
    for i in range(steps):
        loss, grads = step(model, *batches.next())
        grads, _ = optim.clip_grad_norm(grads, 1.0)
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state, loss)
        running = loss.item() if running is None else 0.97 * running + 0.03 * loss.item()
        if (i + 1) % 50 == 0:
            print(f"step {i + 1}/{steps}  loss {running:.4f}  {time.time() - start:.0f} s", flush=True)
