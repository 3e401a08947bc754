"""Grammars that generated text must follow, by way of llguidance: the library that the native engine has too, so that both allow the
same tokens."""

import json

import mlx.core as mx
import numpy as np

from .errors import RequestError

# The names of the kinds' options, for errors.
OPTIONS = {"json_schema": "JSONSchema", "regex": "Regex", "choices": "Choices", "lark": "Grammar"}


class Grammars:
    """Makes the grammars of one model. The tokens' bytes are prepared when a grammar is first asked for."""

    def __init__(self, tokenizer, vocab_size):
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._vocabulary = None

    def follow(self, given):
        """A processor that keeps a text to a grammar."""
        option = OPTIONS.get(given["kind"], "Grammar")
        try:
            import llguidance
        except ImportError as e:
            raise RequestError(
                "invalid_option",
                f"the worker's Python has no llguidance ({e}): install what requirements.txt names, or use the native engine",
                option=option,
            ) from e
        try:
            if self._vocabulary is None:
                self._vocabulary = self._read(llguidance)
            matcher = llguidance.LLMatcher(self._vocabulary, text_of(llguidance.LLMatcher, given["kind"], given["text"]), log_level=0)
        except Exception as e:
            raise RequestError("invalid_option", f"{e}", option=option) from e
        if matcher.is_error():
            raise RequestError("invalid_option", matcher.get_error(), option=option)
        # Some grammars that no text follows, such as one that only refers to itself, are found out when it begins.
        first = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        if matcher.is_error() or not first.any():
            raise RequestError("invalid_option", stopped(matcher) or "no text can follow it", option=option)
        return Follower(matcher, set(self._tokenizer.eos_token_ids), option)

    def _read(self, llguidance):
        words, special = token_bytes(self._tokenizer._tokenizer.backend_tokenizer, self._vocab_size)
        ends = sorted(t for t in self._tokenizer.eos_token_ids if 0 <= t < len(words))
        if not ends:
            raise ValueError("the model has no end token")
        vocabulary = llguidance.TokenizerWrapper(Vocabulary(words, special, ends[0]))
        return llguidance.LLTokenizer(vocabulary, n_vocab=len(words), eos_token=ends)


class Vocabulary:
    """Tokens as llguidance takes them."""

    bos_token_id = None

    def __init__(self, tokens, special_token_ids, eos_token_id):
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special_token_ids, eos_token_id

    def __call__(self, text):
        return []  # no text has to be encoded: see CHOOSE


def token_bytes(backend, size):
    """The bytes that each token stands for, and the ids of special tokens, which stand for none. The library would count
    tokens such as <tool_call> as special, which are text to the model; so this is done as in the native engine."""
    state = json.loads(backend.to_str())
    decoder = json.dumps(state["decoder"], ensure_ascii=False)
    space = "▁" if "▁" in decoder or "Metaspace" in decoder else " "
    letters = byte_letters() if '"ByteLevel"' in decoder else None
    added = {t["id"]: t for t in state["added_tokens"]}
    words, special = [], []
    for id in range(size or backend.get_vocab_size(with_added_tokens=True)):
        text = backend.id_to_token(id)
        if text is None or id in added and added[id]["special"]:
            words.append((text or f"<[{id}]>").encode())
            special.append(id)
        elif id in added:
            words.append(text.encode())
        elif letters:
            words.append(bytes(letters[c] for c in text))
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            words.append(bytes([int(text[3:5], 16)]))
        else:
            words.append(text.replace(space, " ").encode())
    return words, special


def byte_letters():
    """GPT-2's alphabet: printable bytes stand for themselves, the others for letters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {chr(b if b in printable else next(others)): b for b in range(256)}


# Where a grammar allows one text only, llguidance would choose its tokens. The model chooses them instead, as in the native engine.
CHOOSE = '\n%llguidance {"no_forcing": true}\n'


def text_of(matcher, kind, text):
    """A grammar as llguidance reads it."""
    if kind == "json_schema":
        schema = json.loads(text)
        if isinstance(schema, dict):  # without this a model may put spaces for ever
            schema.setdefault("x-guidance", {"whitespace_flexible": False})
        lark = "start: %json " + json.dumps(schema)
    elif kind == "regex":
        # The library knows how a regular expression is written in a grammar.
        lark = json.loads(matcher.grammar_from_regex(text))["grammars"][0]["lark_grammar"]
    elif kind == "choices":
        choices = json.loads(text)
        if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
            raise ValueError("choices are a list of texts")
        lark = "start: " + " | ".join(map(literal, choices))
    else:
        lark = text
    return matcher.grammar_from_lark(lark + CHOOSE)


def literal(text):
    """A text as a string of a Lark grammar, whose lexer takes no control characters."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in quoted)


def stopped(matcher):
    """Why a matcher stopped, without the state of its parser that the library shows after it. "" if no token may follow."""
    cause = (matcher.get_error() or "").partition("\n<state>")[0] if matcher.is_error() else ""
    return "" if cause == "NoExtensionBias" else cause


class Follower:
    """A logits processor. It finds out by itself what was generated: what has come to the tokens since it was first called, when
    they were the prompt, or its end. Where a draft was rejected, tokens are taken back."""

    def __init__(self, matcher, ends, option):
        self._matcher, self._ends, self._option = matcher, ends, option
        self._before = None  # tokens of the prompt
        self._taken = []

    def __call__(self, tokens, logits):
        if self._before is None:
            self._before = len(tokens)
        made = tokens[self._before :].tolist()
        if made and made[-1] in self._ends:
            return logits  # after the end of the text: nobody reads them
        self._follow(made)
        allowed = self._allowed(logits.shape[-1])
        # A part of the grammar that is reached only now, such as one that only refers to itself.
        if self._matcher.is_error() or not allowed.any():
            raise self._broken_off()
        return mx.where(mx.array(allowed), logits, mx.array(-mx.inf, logits.dtype))

    def _broken_off(self):
        cause = stopped(self._matcher)
        reason = f"the text cannot go on: {cause}" if cause else "nothing can follow the text so far"
        return RequestError("invalid_option", reason, option=self._option)

    def _follow(self, made):
        common = 0
        while common < min(len(made), len(self._taken)) and made[common] == self._taken[common]:
            common += 1
        if common < len(self._taken):
            self._matcher.rollback(len(self._taken) - common)
            del self._taken[common:]
        for token in made[common:]:
            if not self._matcher.consume_token(token):
                raise self._broken_off()
            self._taken.append(token)

    def _allowed(self, size):
        """Which tokens may come next: end tokens, where the text may end."""
        bits = np.zeros((size + 31) // 32, np.uint32)
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        n = min(len(bits), len(mask))
        bits[:n] = mask[:n]
        return np.unpackbits(bits.view(np.uint8), bitorder="little")[:size].astype(bool)
