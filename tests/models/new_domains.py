"""Training data that teaches the domain model two new domains, cars and the arts, in English and German.

    python tests/models/new_domains.py OUT [--count N] [--texts]

Writes OUT/train.jsonl and OUT/valid.jsonl as chats, half of them of the domains that the model knows, so that it does not
forget them; with --texts as plain texts, for models without a chat template. tests/corpus/new/heldout.tsv is written by hand, comes from no frame and is never trained on.
"""

import argparse
import json
import random
from pathlib import Path

import corpus

NEW = ("car", "art")  # single tokens, as the known ones: a label's score is the mean over its tokens
PROMPT = "Classify the text. Answer with one of: {labels}.\n\nText: {text}"  # the Go package's default


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--texts", action="store_true")
    args = parser.parse_args()
    sampler = corpus.Sampler(31)
    known = corpus.CORPUS
    corpus.CORPUS = known / "new"
    added = {lang: corpus.load_language(lang) for lang in ("en", "de")}
    corpus.CORPUS = known
    labels = ", ".join((*corpus.DOMAINS, *NEW))
    rng = random.Random(32)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", args.count), ("valid", 96)):
        with open(args.out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for _ in range(count):
                if rng.random() < 0.5:
                    text, domain = sampler.pair()
                else:
                    lang, domain = rng.choice(list(added)), rng.choice(NEW)
                    sampler.words[lang].update(added[lang])
                    text = sampler.sentence(lang, domain)
                user = PROMPT.format(labels=labels, text=text)
                messages = [{"role": "user", "content": user}, {"role": "assistant", "content": domain}]
                line = {"text": f"{user}\nLabel: {domain}"} if args.texts else {"messages": messages}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
