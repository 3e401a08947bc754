"""What mlx-lm itself generates, without any of this project's code.

stdin: {NAME: {"model", "adapter", "draft", "ids", "max_tokens", and further arguments of stream_generate}, ...};
stdout: {NAME: token ids, ...}. Greedy, and after end tokens.
"""

import json
import sys

from mlx_lm.generate import stream_generate
from mlx_lm.utils import load


def generate(model, ids, adapter=None, draft=None, **request):
    model, tokenizer = load(model, adapter_path=adapter)
    if draft:
        request["draft_model"], _ = load(draft)
    tokenizer._eos_token_ids = {-1}
    return [r.token for r in stream_generate(model, tokenizer, ids, prefill_step_size=512, **request)]


print(json.dumps({name: generate(**request) for name, request in json.load(sys.stdin).items()}))
