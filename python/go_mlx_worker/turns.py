"""Work on many texts that leaves streams their turn."""

import time

from .errors import RequestError

MAX_ROWS = 64  # in one pass
TURN = 0.02  # seconds in which texts are prepared before streams have their turn


def each_text(items, first, ids_of):
    """A generator that returns the token ids of each item, as ids_of makes them, and yields where it is streams' turn. An error names the
    text: its index is that of the item, counted from first."""
    rows, turn = [], time.monotonic()
    for i, item in enumerate(items):
        try:
            rows.append(ids_of(item))
        except RequestError as e:
            raise RequestError(e.code, str(e), text=first + i, **e.data) from e
        if time.monotonic() - turn > TURN:  # templates and tokenizers take their time
            yield
            turn = time.monotonic()
    return rows
