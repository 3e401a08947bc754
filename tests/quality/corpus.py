"""Writes the domain corpus as data of classifiers: 2,000 sentences of its sampler, and the held-out sentences.

    python tests/quality/corpus.py build/quality
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "models"))
from corpus import DOMAINS, LANGUAGES, Sampler, load_heldout  # noqa: E402

SENTENCES = 2000


def main():
    out = pathlib.Path(sys.argv[1])
    sampler = Sampler(1)
    with open(out / "corpus-train.tsv", "w", encoding="utf-8") as file:
        for i in range(SENTENCES):
            domain, language = DOMAINS[i % len(DOMAINS)], LANGUAGES[i // len(DOMAINS) % len(LANGUAGES)]
            file.write(f"{domain}\t{sampler.clean_sentence(language, domain)}\t{language}\n")
    with open(out / "corpus-test.tsv", "w", encoding="utf-8") as file:
        for language, domain, sentence in load_heldout():
            file.write(f"{domain}\t{sentence}\t{language}\n")


main()
