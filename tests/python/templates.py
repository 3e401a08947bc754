"""Chat templates as transformers renders them: [[template, messages, more variables]] to texts."""

import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

out = []
for source, messages, more in json.load(sys.stdin):
    try:
        template = _compile_jinja_template(source)
        context = {"add_generation_prompt": False, "bos_token": "<s>", **(more or {})}
        out.append(template.render(messages=messages, **context))
    except Exception as e:
        out.append(f"error: {type(e).__name__}: {e}")
json.dump(out, sys.stdout)
