"""Classification as the engines do it, by llama.cpp: for `compare -llamacpp`, which talks to it in lines of JSON.

First line in: {"model": folder, "gguf": file, "labels": [...]}. Then for each line [texts] one line [labels].
Best form: the shared prefix is computed once, texts continue it side by side in one batch, and logits are
computed for their last tokens only.
"""

import ctypes
import json
import sys

import llama_cpp as lc
import numpy as np
from transformers import AutoTokenizer

PROMPT = "Classify the text. Answer with one of: {labels}.\n\nText: {text}"
BATCH, SEQUENCES = 2048, 64


@lc.llama_log_callback
def quiet(*_):
    """llama.cpp tells much; the callback must outlive the calls that use it."""


def main():
    setup = json.loads(sys.stdin.readline())
    tokenizer = AutoTokenizer.from_pretrained(setup["model"])
    labels = setup["labels"]
    label_ids = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    assert all(len(ids) == 1 for ids in label_ids), "labels of one token each"
    label_ids = [ids[0] for ids in label_ids]

    def prompt(text):
        content = PROMPT.replace("{labels}", ", ".join(labels)).replace("{text}", text)
        messages = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer.encode(text, add_special_tokens=False)

    lc.llama_log_set(quiet, ctypes.c_void_p())
    lc.llama_backend_init()
    model = lc.llama_model_load_from_file(setup["gguf"].encode(), lc.llama_model_default_params())
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 8192, BATCH, BATCH, SEQUENCES + 1
    params.n_threads = params.n_threads_batch = setup["threads"]
    params.kv_unified = True
    context = lc.llama_init_from_model(model, params)
    assert context, "llama.cpp could not load the model"
    memory = lc.llama_get_memory(context)
    vocab = setup["vocab"]
    probes = [prompt(probe) for probe in ("a", "7", "Ωm")]
    length = 0
    while len({tuple(ids[: length + 1]) for ids in probes}) == 1:
        length += 1
    prefix = probes[0][:length]
    batch = lc.llama_batch_init(BATCH, 0, 1)

    def add(token, position, sequence, logits):
        i = batch.n_tokens
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
        batch.seq_id[i][0], batch.logits[i] = sequence, logits
        batch.n_tokens = i + 1

    def decode():
        assert lc.llama_decode(context, batch) == 0, "llama_decode failed"
        batch.n_tokens = 0

    batch.n_tokens = 0
    for i, token in enumerate(prefix):
        add(token, i, 0, False)
    decode()

    def flush(group):
        lasts = []
        for sequence, (_, ids) in enumerate(group, 1):
            lc.llama_memory_seq_cp(memory, 0, sequence, 0, length)
            for i, token in enumerate(ids):
                add(token, length + i, sequence, i == len(ids) - 1)
            lasts.append(batch.n_tokens - 1)
        decode()
        for (index, _), last in zip(group, lasts):
            logits = np.ctypeslib.as_array(lc.llama_get_logits_ith(context, last), shape=(vocab,))
            yield index, labels[int(np.argmax(logits[label_ids]))]
        for sequence in range(1, len(group) + 1):
            lc.llama_memory_seq_rm(memory, sequence, -1, -1)

    for line in sys.stdin:
        texts = json.loads(line)
        rows = sorted(((i, prompt(text)[length:]) for i, text in enumerate(texts)), key=lambda row: len(row[1]))
        found = [None] * len(texts)
        group, tokens = [], 0
        for row in rows:
            if len(group) == SEQUENCES or tokens + len(row[1]) > BATCH:
                for index, label in flush(group):
                    found[index] = label
                group, tokens = [], 0
            group.append(row)
            tokens += len(row[1])
        if group:
            for index, label in flush(group):
                found[index] = label
        print(json.dumps(found), flush=True)


main()
