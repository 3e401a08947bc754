"""The domain corpus: hand-written sentences and word lists, combined by sentence frames.

tests/corpus/ holds one file a language (noun phrases, verb phrases, sentences for each domain), the
frames, and heldout.tsv, whose sentences were written by hand, come from no frame and are never
trained on.
"""

import random
from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
LANGUAGES = ("en", "de", "fr", "es")
DOMAINS = ("commerce", "medical", "legal", "travel", "finance", "developer", "sport", "food")


def load_language(lang):
    """{domain: {"n": [...], "v": [...], "+": [...]}} of one language file."""
    domains, current = {}, None
    for line in (CORPUS / f"{lang}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            current = domains.setdefault(line[2:], {"n": [], "v": [], "+": []})
        elif line.startswith(("n: ", "v: ")):
            current[line[0]] += [item.strip() for item in line[3:].split(";")]
        elif line.startswith("+ "):
            current["+"].append(line[2:])
        elif line.strip():
            raise ValueError(f"{lang}.txt: cannot read {line!r}")
    return domains


def load_frames():
    frames, current = {}, None
    for line in (CORPUS / "frames.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = frames.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line)
    return frames


def load_heldout():
    """[(language, domain, sentence)]"""
    text = (CORPUS / "heldout.tsv").read_text(encoding="utf-8")
    return [tuple(line.split("\t")) for line in text.splitlines()]


class Sampler:
    """Draws endless (sentence, domain) training pairs from a seeded generator."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.words = {lang: load_language(lang) for lang in LANGUAGES}
        self.frames = load_frames()

    def clean_sentence(self, lang, domain):
        """A sentence as a person would write it."""
        rng, words = self.rng, self.words[lang][domain]
        if rng.random() < 0.3:
            return rng.choice(words["+"])
        frame = rng.choice(self.frames[lang])
        while "{n}" in frame:
            frame = frame.replace("{n}", rng.choice(words["n"]), 1)
        text = frame.replace("{v}", rng.choice(words["v"]))
        return text[0].upper() + text[1:]

    def sentence(self, lang, domain):
        """A sentence, often distorted: the domain must show from any of its words."""
        rng = self.rng
        if rng.random() < 0.25:
            text = self._word_soup(self.words[lang][domain])
        else:
            text = self.clean_sentence(lang, domain)
            if rng.random() < 0.35:
                text = self._drop_words(text)
        if rng.random() < 0.25:
            text = text.lower()
        if rng.random() < 0.1:
            text = text.rstrip(".!? ")
        return text

    def _drop_words(self, text):
        """Half of the words, in order or not: keeps the model from leaning on the frame."""
        words = text.split()
        keep = [w for w in words if self.rng.random() < 0.6] or words
        if self.rng.random() < 0.5:
            self.rng.shuffle(keep)
        return " ".join(keep)

    def _word_soup(self, words):
        """A few words of the domain without a sentence around them: single words must count."""
        pool = " ".join(self.rng.choice(words[k]) for k in ("n", "v", "+", "n", "v", "+")).split()
        self.rng.shuffle(pool)
        return " ".join(pool[: self.rng.randint(3, 7)])

    def pair(self):
        domain = self.rng.choice(DOMAINS)
        return self.sentence(self.rng.choice(LANGUAGES), domain), domain


def plain_sentences(count, seed):
    """Sentences for the tokenizer."""
    sampler = Sampler(seed)
    out = [s for w in sampler.words.values() for d in w.values() for s in d["+"]]
    out += [s for w in sampler.words.values() for d in w.values() for s in d["n"] + d["v"]]
    while len(out) < count:
        out.append(sampler.pair()[0])
    return out
