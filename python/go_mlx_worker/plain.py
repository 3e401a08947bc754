"""Users' texts in which nothing counts as a control token, after the rules of transformers' sanitize_control_tokens.

What spells a control token is put between marks, private characters, before the template is rendered, and what stands between marks in
the rendered text is encoded without added tokens. Two things go further than transformers does: keys are marked too, for templates print
the names of functions' parameters; and marks are still seen where a template prints a list or a dict, which writes them as escapes."""

import ast
import re

from transformers.utils.chat_template_utils import _get_control_token_patterns, encode_marked_chat, mark_control_tokens

from .errors import RequestError

START, END = "\U000f0000", "\U000f0001"  # as transformers has them
# As Python's repr writes a mark, and JSON in ASCII.
ESCAPED = {START: r"(?:\\U000f0000|\\udb80\\udc00)", END: r"(?:\\U000f0001|\\udb80\\udc01)"}


class Guard:
    """Knows the control tokens of a tokenizer, of transformers and not mlx-lm's around it."""

    def __init__(self, tokenizer, control):
        self.tokenizer = tokenizer
        self.control, _ = _get_control_token_patterns(tuple(control))
        self.escaped = re.compile(f"{ESCAPED[START]}({self.control.pattern}){ESCAPED[END]}")

    @classmethod
    def of_chats(cls, tokenizer, tools):
        """What counts in the template that is taken for these tools; where a program of Python is in the place of a template, every
        added token that is not blank."""
        if getattr(tokenizer, "chat_template", None) is None:
            added = (t.content for t in tokenizer.added_tokens_decoder.values())
            return cls(tokenizer, (token for token in added if token.strip()))
        try:
            return cls(tokenizer, tokenizer._get_control_tokens(tokenizer.get_chat_template(None, tools)))
        except Exception as e:  # the template is parsed for it
            raise RequestError("bad_request", f"chat template: {e}") from e

    @classmethod
    def of_texts(cls, tokenizer):
        return cls(tokenizer, (t.content for t in tokenizer.added_tokens_decoder.values() if t.special))

    def mark(self, value):
        """A value in which every text is marked, keys too."""
        if isinstance(value, dict):
            return {self.mark(key): self.mark(v) for key, v in value.items()}
        if isinstance(value, list):
            return [self.mark(v) for v in value]
        return mark_control_tokens(value, self.control)

    def encode(self, text):
        """The ids of a text that was marked, or rendered of values that were."""
        try:
            return encode_marked_chat(self.tokenizer, self.escaped.sub(rf"{START}\1{END}", text))
        except ValueError as e:
            if (known := _control_token(e)) is None:
                raise
            raise known from e


def _control_token(error):
    """The error of a text that spells a control token which the tokenizer can write in no other way; None for others.
    transformers has no type of its own for it."""
    found = re.match(r"Can't sanitize (.+): the tokenizer produces it", str(error))
    if not found:
        return None
    token = ast.literal_eval(found.group(1))
    return RequestError("control_token", f"the text spells the control token {token!r}", token=token)
