"""Trains the byte-fallback BPE tokenizer and writes it in Gemma's tokenizer.json layout."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
PAD, EOS, BOS, UNK, START, END = range(6)
SPACE = "\u2581"


def train(sentences, labels, vocab_size):
    """Returns the tokenizer.json of a BPE with byte fallback, as Gemma's: spaces become U+2581, no
    other normalisation, unknown characters fall back to their UTF-8 bytes."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", SPACE)
    learner.pre_tokenizer = split()
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    size = vocab_size - len(SPECIAL) - len(byte_tokens)
    learner.train_from_iterator(
        # Labels stand alone after the turn marker; seen often enough, each becomes one token.
        sentences + [label for label in labels for _ in range(200)],
        trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False),
    )
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    # A newline is its own token, as in Gemma, so that turn borders never merge into the text.
    vocab = {t: i for i, t in enumerate(dict.fromkeys(SPECIAL + byte_tokens + ["\n"] + pieces))}

    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[tuple(m) for m in learned["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = split()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def split():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[\n.,:;!?¿¡()]"), "isolated"),
        ]
    )
