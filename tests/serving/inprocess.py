"""mlx-lm in this process, for tests/serving: takes lines of JSON {"prompts", "tokens"} on stdin, answers
{"first": seconds, "all": seconds} on stdout: one prompt by stream_generate, several by batch_generate."""

import json
import sys
import time

from mlx_lm.generate import batch_generate, stream_generate
from mlx_lm.utils import load

model, tokenizer = load(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    prompts = [tokenizer.encode(p) for p in request["prompts"]]
    start, first = time.perf_counter(), None
    if len(prompts) == 1:
        count = 0
        for _ in stream_generate(model, tokenizer, prompts[0], max_tokens=request["tokens"]):
            first = first or time.perf_counter() - start
            count += 1
        assert count == request["tokens"], count
    else:
        out = batch_generate(model, tokenizer, prompts, max_tokens=request["tokens"])
        assert len(out.texts) == len(prompts)
    print(json.dumps({"first": first or 0, "all": time.perf_counter() - start}), flush=True)
