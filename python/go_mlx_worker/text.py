"""Text of a token stream, by the same rules as the native engine's."""


class StreamDecoder:
    """Turns ids into text piece by piece; a piece that ends in an incomplete character waits."""

    def __init__(self, tokenizer, skip_special=True):
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._ids, self._given, self._settled = [], 0, 0

    def _decode(self, ids):
        return self._tokenizer.decode(
            ids, skip_special_tokens=self._skip_special, clean_up_tokenization_spaces=False
        )

    def add(self, token):
        self._ids.append(token)
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
        keep = max(
            (n for stop in self._stops for n in range(1, len(stop)) if buffer.endswith(stop[:n])),
            default=0,
        )
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], ""

    def finish(self):
        held, self._held = self._held, ""
        return held
