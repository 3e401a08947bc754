"""Token ids, decoded text and rendered chats as Python's libraries give them.

stdin: {"model": folder, "texts": [...], "chats": [[message, ...], ...]}
stdout: {"ids": [...], "decoded": [...], "rendered": [...]} with an "error: ..." string for a chat that
the template refuses.
"""

import json
import sys

from transformers import AutoTokenizer

request = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(request["model"])
ids = [tokenizer.encode(text) for text in request["texts"]]
rendered = []
for chat in request["chats"]:
    try:
        rendered.append(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except Exception as e:
        rendered.append(f"error: {e}")
json.dump(
    {
        "ids": ids,
        "decoded": [
            tokenizer.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in ids
        ],
        "rendered": rendered,
    },
    sys.stdout,
)
