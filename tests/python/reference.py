"""What mlx-lm itself generates, without any of this project's code.

stdin: {"model", "adapter", "draft", "ids", "max_tokens", and further arguments of stream_generate};
stdout: the token ids. Greedy, and behind end tokens.
"""

import json
import sys

from mlx_lm.generate import stream_generate
from mlx_lm.utils import load

request = json.load(sys.stdin)
model, tokenizer = load(request.pop("model"), adapter_path=request.pop("adapter", None))
draft = request.pop("draft", None)
if draft:
    request["draft_model"], _ = load(draft)
tokenizer._eos_token_ids = {-1}
ids = request.pop("ids")
print(json.dumps([r.token for r in stream_generate(model, tokenizer, ids, prefill_step_size=512, **request)]))
