"""Writes the training strings as lines for "go-mlx train": the prompt of classifiers, and the domain after it.

    python tests/quality/lora.py build/quality
"""

import json
import pathlib
import random
import sys

LONGEST = 120  # characters of a string: batches are as wide as their longest line


def main():
    out = pathlib.Path(sys.argv[1])
    rows = [line.rstrip("\n").split("\t") for line in (out / "train.tsv").open(encoding="utf-8")]
    random.Random(1).shuffle(rows)
    (out / "lora").mkdir(exist_ok=True)
    with open(out / "lora" / "train.jsonl", "w", encoding="utf-8") as file:
        for label, text, *_ in rows:
            file.write(json.dumps({"text": f'Software that says "{text[:LONGEST]}" is used for {label}'}, ensure_ascii=False) + "\n")


main()
