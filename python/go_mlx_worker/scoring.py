"""Scores: the mean log-probability of each label's tokens after a prompt, and those of a prompt's own tokens."""

import json

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from .alone import PREFILL_CHUNK
from .errors import RequestError
from .turns import MAX_ROWS, each_text

# Bound of one pass, in bytes of float32 logits, which generic models make for every position.
MAX_LOGIT_BYTES = 256 << 20


def classify(loaded, request):
    """A generator that yields between passes, so that streams go on meanwhile, and returns as "scores" a list
    for each text, in the order of request["texts"] and request["labels"]."""
    labels = [loaded.encode(label, special=False) for label in request["labels"]]
    for name, ids in zip(request["labels"], labels):
        if not ids:
            raise RequestError("invalid_option", f"label {name!r} has no tokens", option="labels")
        loaded.check_option_ids(ids, "labels")
    longest = max(len(label) for label in labels)

    def prompt_ids(text):
        chats = loaded.has_template and not request.get("completes")
        form = {"messages": json.dumps([{"role": "user", "content": text}])} if chats else {"text": text}
        ids = loaded.prompt_ids(form | {"plain": True})
        if loaded.context_length and len(ids) + longest > loaded.context_length:
            raise RequestError("context_length", "text is too long", tokens=len(ids), limit=loaded.context_length - longest + 1)
        return ids

    prompts = yield from each_text(request["texts"], request["from"], prompt_ids)

    # All labels' first tokens share the prompt's pass; labels that go on need a row each.
    scores = [[0.0] * len(labels) for _ in prompts]
    first = mx.array([label[0] for label in labels])
    rows = [(ids, (p, None)) for p, ids in enumerate(prompts)]
    for (p, _), logprobs in _tail_logprobs(loaded, rows, None):
        if logprobs is None:
            yield
            continue
        for i, value in enumerate(logprobs[0][first].tolist()):
            scores[p][i] = value
    longer = [i for i, label in enumerate(labels) if len(label) > 1]
    rows = [(ids + labels[i][:-1], (p, i)) for p, ids in enumerate(prompts) for i in longer]
    counts = {i: len(labels[i]) - 1 for i in longer}
    for (p, i), logprobs in _tail_logprobs(loaded, rows, counts):
        if logprobs is None:
            yield
            continue
        picked = mx.take_along_axis(logprobs, mx.array(labels[i][1:])[:, None], axis=-1)
        scores[p][i] += sum(picked[:, 0].tolist())
    return {"scores": [[s / len(label) for s, label in zip(row, labels)] for row in scores]}


def prompt_logprobs(loaded, request):
    """A generator like classify, which returns "logprobs" of the second token of request["ids"] and those after it,
    and "tops", the request["top"] most likely [id, logprob] in the place of each, best first."""
    ids, top = request["ids"], request["top"]
    loaded.check_ids(ids, "prompt")
    if loaded.context_length and len(ids) >= loaded.context_length:
        raise RequestError("context_length", "prompt is too long", tokens=len(ids), limit=loaded.context_length)
    cache = make_prompt_cache(loaded.model)
    step = max(1, min(PREFILL_CHUNK, MAX_LOGIT_BYTES // (4 * max(loaded.vocab_size, 1))))
    values, tops = [], []
    for begin in range(0, len(ids) - 1, step):
        yield
        chunk = ids[begin : min(begin + step, len(ids) - 1)]
        logits = loaded.model(mx.array([chunk]), cache=cache)[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        following = mx.array(ids[begin + 1 : begin + 1 + len(chunk)])
        values += mx.take_along_axis(logprobs, following[:, None], axis=-1)[:, 0].tolist()
        tops += _best(logprobs, top) if top else [[] for _ in chunk]
        mx.clear_cache()
    return {"logprobs": values, "tops": tops}


def _best(logprobs, top):
    """The top most likely [id, logprob] of each row of logprobs [n, vocab], best first."""
    top = min(top, logprobs.shape[-1])
    ids = mx.argpartition(-logprobs, kth=top - 1, axis=-1)[:, :top]
    rows = zip(ids.tolist(), mx.take_along_axis(logprobs, ids, axis=-1).tolist())
    return [[list(p) for p in sorted(zip(*row), key=lambda p: (-p[1], p[0]))] for row in rows]


def _tail_logprobs(loaded, rows, counts):
    """For each row, the log-probabilities [n, vocab] at its last n positions: one, or counts[label].
    None comes in their place once before each pass.

    Rows are padded at their end, which no real token attends to, in batches of like length.
    """
    rows = sorted(rows, key=lambda row: len(row[0]))
    while rows:
        yield (None, None), None
        width, size = len(rows[0][0]), 1
        while size < min(len(rows), MAX_ROWS):
            wider = len(rows[size][0])
            if (size + 1) * wider * max(loaded.vocab_size, 1) * 4 > MAX_LOGIT_BYTES:
                break
            width, size = wider, size + 1
        batch, rows = rows[:size], rows[size:]
        width = len(batch[-1][0])
        logits = loaded.model(mx.array([ids + [0] * (width - len(ids)) for ids, _ in batch]))
        for b, (ids, key) in enumerate(batch):
            n = 1 if counts is None else counts[key[1]]
            tail = logits[b, len(ids) - n : len(ids)].astype(mx.float32)
            yield key, tail - mx.logsumexp(tail, axis=-1, keepdims=True)
    mx.clear_cache()
