"""Makes tests/models/domains: tokenizer, weights and report of the small Gemma3 domain classifier.

    python tests/models/train_domains.py [--steps N] [--out DIR]

Everything comes from one seed. MLX's CPU wheel links the reference BLAS; with Debian's
libopenblas0-pthread installed the script preloads it and takes a few minutes on 2 cores.
"""

import preload  # noqa: F401  first: it may start the program again

import argparse
import json
import random
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import gemma3_text
from tokenizers import Tokenizer

import corpus
import hf
import tokenizer as tok
from baseline import baselines
from training import train

CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "sliding_window": 32,
    "sliding_window_pattern": 3,
    "max_position_embeddings": 2048,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": tok.BOS,
    "eos_token_id": [tok.EOS, tok.END],
    "pad_token_id": tok.PAD,
    "torch_dtype": "bfloat16",
}

# The default label prompt of the Go package (labels.go): the model is trained on what it is asked.
PROMPT = "Classify the text. Answer with one of: {labels}.\n\nText: {text}"


def chat_ids(tokenizer, text, labels):
    user = PROMPT.replace("{labels}", ", ".join(labels)).replace("{text}", text)
    body = f"<start_of_turn>user\n{user.strip()}<end_of_turn>\n<start_of_turn>model\n"
    return [tok.BOS] + tokenizer.encode(body, add_special_tokens=False).ids


class Batches:
    """Draws padded batches. Every fourth is plain sentences, the others are classification turns."""

    def __init__(self, tokenizer, seed, rows):
        self.tokenizer, self.rows, self.count = tokenizer, rows, 0
        # BPE dropout (Provilkov et al. 2020, arXiv:1910.13267): other splits of the same words, so that
        # inflected forms never seen whole share pieces with those that were.
        self.dropping = Tokenizer.from_str(tokenizer.to_str())
        self.dropping.model.dropout = 0.15
        self.sampler = corpus.Sampler(seed)
        self.rng = random.Random(seed + 1)

    def labels(self, domain):
        labels = list(corpus.DOMAINS)
        if self.rng.random() < 0.8:
            return labels
        self.rng.shuffle(labels)
        count = self.rng.randint(2, len(labels))
        kept = labels[:count]
        if domain not in kept:
            kept[self.rng.randrange(count)] = domain
        return kept

    def plain(self):
        """Ids of a sentence, and the index of the first one to predict."""
        text = self.sampler.clean_sentence(self.rng.choice(corpus.LANGUAGES), self.rng.choice(corpus.DOMAINS))
        return [tok.BOS] + self.tokenizer.encode(text, add_special_tokens=False).ids + [tok.EOS], 1

    def turn(self):
        """Ids of a question with its answer, and the index of the first one to predict."""
        text, domain = self.sampler.pair()
        splitter = self.dropping if self.rng.random() < 0.5 else self.tokenizer
        prompt = chat_ids(splitter, text, self.labels(domain))
        answer = self.tokenizer.encode(domain, add_special_tokens=False).ids + [tok.END]
        return prompt + answer, len(prompt)

    def next(self):
        """Ids [rows, width], and of the places that count: where, what follows, and the weight."""
        self.count += 1
        draw = self.plain if self.count % 4 == 0 else self.turn
        rows = [draw() for _ in range(self.rows)]
        # Multiples keep the number of different shapes small.
        width = -(-max(len(ids) for ids, _ in rows) // 8) * 8
        ids = [r + [tok.PAD] * (width - len(r)) for r, _ in rows]
        places = [
            (b * width + i - 1, r[i], 1.0)
            for b, (r, first) in enumerate(rows)
            for i in range(first, len(r))
        ]
        places += [(0, tok.PAD, 0.0)] * (-len(places) % 64)
        where, targets, weights = zip(*places)
        return mx.array(ids), mx.array(where), mx.array(targets), mx.array(weights)


def loss_fn(model, ids, where, targets, weights):
    # Logits only where they count: most of a classification turn is its prompt.
    h = model.model(ids)
    h = h.reshape(-1, h.shape[-1])[where]
    losses = nn.losses.cross_entropy(model.model.embed_tokens.as_linear(h), targets)
    return (losses * weights).sum() / weights.sum()


def new_model(config, seed):
    mx.random.seed(seed)
    model = gemma3_text.Model(gemma3_text.ModelArgs.from_dict(config))
    model.sanitize({})  # ties the embeddings
    # Gemma's norms multiply by 1 + weight.
    model.apply(lambda x: mx.zeros_like(x), filter_fn=lambda m, k, v: k == "weight" and isinstance(m, gemma3_text.RMSNorm))
    return model


def evaluate(model, tokenizer):
    """Held-out accuracy by greedy choice among the labels' mean log-probabilities."""
    labels = list(corpus.DOMAINS)
    label_ids = [tokenizer.encode(label, add_special_tokens=False).ids for label in labels]
    right = 0
    for _, domain, text in corpus.load_heldout():
        prompt = chat_ids(tokenizer, text, labels)
        scores = []
        for ids in label_ids:
            logits = model(mx.array([prompt + ids]))[0, len(prompt) - 1 : -1].astype(mx.float32)
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            scores.append(mx.take_along_axis(logprobs, mx.array(ids)[:, None], -1).mean().item())
        right += labels[scores.index(max(scores))] == domain
    return right


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("domains"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = tok.train(corpus.plain_sentences(40000, args.seed), list(corpus.DOMAINS), args.vocab)
    vocab_size = -(-tokenizer.get_vocab_size() // 64) * 64
    config = CONFIG | {"vocab_size": vocab_size}
    model = new_model(config, args.seed)
    parameters = sum(v.size for _, v in tree_flatten(model.parameters()))
    print(f"{parameters / 1e6:.2f} million parameters, vocabulary {vocab_size}", flush=True)

    train(model, Batches(tokenizer, args.seed, args.rows), loss_fn, args.steps, args.lr, args.weight_decay)
    model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))

    hf.write_json(args.out / "config.json", config)
    hf.write_tokenizer(args.out, tokenizer)
    hf.write_generation_config(args.out)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(args.out / "model.safetensors"), weights, {"format": "mlx"})

    heldout = corpus.load_heldout()
    report = {
        "seed": args.seed,
        "steps": args.steps,
        "parameters": parameters,
        "heldout_sentences": len(heldout),
        "model_accuracy": evaluate(model, tokenizer) / len(heldout),
        **baselines(args.seed),
    }
    hf.write_json(args.out / "report.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
