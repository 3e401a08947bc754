"""What the domain classifier is measured against, on the same held-out sentences.

    python tests/models/baseline.py

The majority class, and a bag-of-words logistic regression trained on as many sentences of the same
corpus as fit a second.
"""

import re
from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

import corpus


def words(text):
    return re.findall(r"\w+", text.lower())


def bag_of_words(pairs, vocabulary):
    rows = []
    for text, _ in pairs:
        row = [0.0] * len(vocabulary)
        for w in words(text):
            if w in vocabulary:
                row[vocabulary[w]] = 1.0
        rows.append(row)
    return mx.array(rows)


def logistic_regression_accuracy(seed, count=6000, steps=60):
    sampler = corpus.Sampler(seed)
    training = [sampler.pair() for _ in range(count)]
    heldout = [(text, domain) for _, domain, text in corpus.load_heldout()]
    vocabulary = {w: i for i, w in enumerate(sorted({w for t, _ in training for w in words(t)}))}
    classes = {d: i for i, d in enumerate(corpus.DOMAINS)}
    x, y = bag_of_words(training, vocabulary), mx.array([classes[d] for _, d in training])

    mx.random.seed(seed)
    model = nn.Linear(len(vocabulary), len(classes))
    optimizer = optim.AdamW(0.05, weight_decay=1e-3)
    step = nn.value_and_grad(model, lambda m, a, b: nn.losses.cross_entropy(m(a), b, reduction="mean"))
    for _ in range(steps):
        _, grads = step(model, x, y)
        optimizer.update(model, grads)
        mx.eval(model.parameters())
    guesses = mx.argmax(model(bag_of_words(heldout, vocabulary)), axis=-1)
    return (guesses == mx.array([classes[d] for _, d in heldout])).mean().item()


def baselines(seed):
    counts = Counter(domain for _, domain, _ in corpus.load_heldout())
    return {
        "majority_class_accuracy": max(counts.values()) / sum(counts.values()),
        "bag_of_words_logistic_regression_accuracy": logistic_regression_accuracy(seed),
    }


if __name__ == "__main__":
    for name, accuracy in baselines(seed=7).items():
        print(f"{100 * accuracy:5.1f}%  {name.removesuffix('_accuracy').replace('_', ' ')}")
