"""Chat templates as transformers renders them: [[template, messages, more arguments]] to texts."""

import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template

out = []
for source, messages, more in json.load(sys.stdin):
    try:
        # As apply_chat_template hands them on.
        messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
        rendered, _ = render_jinja_template([messages], chat_template=source, **{"bos_token": "<s>", **(more or {})})
        out.append(rendered[0])
    except Exception as e:
        out.append(f"error: {type(e).__name__}: {e}")
json.dump(out, sys.stdout)
