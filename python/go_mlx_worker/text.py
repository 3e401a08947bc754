"""Text of a token stream, by the same rules as the native engine's."""

import functools


@functools.lru_cache(maxsize=4)
def special_tokens(tokenizer):
    """The ids that give no text where special tokens are skipped."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return frozenset(token for token, description in added.items() if description.special)


@functools.lru_cache(maxsize=4)
def byte_tokens(tokenizer):
    """The ids of tokens of one byte, of a vocabulary that spells rare characters in such: they are called "<0x41>", and decode
    to something else."""
    found = set()
    for byte in range(256):
        for name in (f"<0x{byte:02X}>", f"<0x{byte:02x}>"):
            token = tokenizer.convert_tokens_to_ids(name)
            if token is not None and tokenizer.convert_ids_to_tokens(token) == name:
                if tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False) != name:
                    found.add(token)
    return frozenset(found)


class StreamDecoder:
    """Turns ids into text piece by piece; a piece that ends in an incomplete character waits. So do tokens of one byte: those
    in a row are decoded together, and one bad byte makes U+FFFD of them all."""

    def __init__(self, tokenizer, skip_special=True):
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._bytes = byte_tokens(tokenizer)
        self._special = special_tokens(tokenizer) if skip_special else ()
        self._ids, self._given, self._settled = [], 0, 0

    def _decode(self, ids):
        return self._tokenizer.decode(
            ids, skip_special_tokens=self._skip_special, clean_up_tokenization_spaces=False
        )

    def add(self, token):
        # What gives no text, special tokens that are skipped and ids that are no tokens, ends no row of bytes either.
        if token in self._special or self._tokenizer.convert_ids_to_tokens(token) is None:
            return ""
        self._ids.append(token)
        if token in self._bytes:
            return ""
        text = self._decode(self._ids)
        if text.endswith("\ufffd") or len(text) <= self._given:
            return ""
        piece = text[self._given :]
        # The window keeps the last piece in front of the next one: decoders may strip at the start.
        self._ids = self._ids[self._settled :]
        self._settled = len(self._ids)
        self._given = len(self._decode(self._ids))
        return piece

    def finish(self):
        piece = self._decode(self._ids)[self._given :]
        self._ids, self._given, self._settled = [], 0, 0
        return piece


def _open_end(text, stop):
    """How many characters at the end of a text may be the beginning of a stop string. A stop string may be longer than any text."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.startswith(stop[:n], len(text) - n)), 0)


class StopMatcher:
    """Finds stop strings over the borders of pieces; what may begin one is held back."""

    def __init__(self, stops):
        self._stops, self._held = stops, ""

    def add(self, piece):
        """(text before the earliest stop string, that string or "")"""
        if not self._stops:
            return piece, ""
        buffer = self._held + piece
        found = [(i, n) for n, i in enumerate(buffer.find(stop) for stop in self._stops) if i >= 0]
        if found:
            self._held = ""
            at, n = min(found)
            return buffer[:at], self._stops[n]
        keep = max(_open_end(buffer, stop) for stop in self._stops)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], ""

    def finish(self):
        held, self._held = self._held, ""
        return held
