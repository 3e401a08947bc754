"""Texts of token ids as the tokenizers library gives them: {"tokenizer": file, "texts": [...], "ids": [[...], ...]} to
{"ids": ids of the texts, "decoded": texts of the ids}."""

import json
import sys

from tokenizers import Tokenizer

request = json.load(sys.stdin)
tokenizer = Tokenizer.from_file(request["tokenizer"])
tokenizer.no_padding()
tokenizer.no_truncation()
json.dump(
    {
        "ids": [tokenizer.encode(text).ids for text in request["texts"]],
        "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in request["ids"]],
    },
    sys.stdout,
)
