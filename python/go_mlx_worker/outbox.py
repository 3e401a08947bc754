"""Messages of the worker, kept until they are written.

Every message is encoded when it is put in, so what cannot be sent is an error of the request it belongs to, raised where
that request is at hand. What was put in is written by the next flush, whatever fails in between: a token that a stream has
counted reaches its reader."""

from .errors import error_message
from .frames import encode_frame


class Outbox:
    """Belongs to the main thread. Only the channel under it is shared, with the heartbeat."""

    def __init__(self, channel):
        self._channel, self._frames = channel, []
        self._pass = []  # the requests of the last `pass` message to the supervisor

    def put(self, message):
        self._frames.append(encode_frame(message))

    def put_error(self, request, error):
        """Ends a request with an exception, whatever is in its text."""
        self.put(error_message(request, error))

    def announce(self, requests):
        """Tells the supervisor which requests the next work is for, before it begins: if the process ends in it, these are the
        suspects. Written at once, since the supervisor still reads what was written before the end of a process."""
        requests = sorted(requests)
        if requests != self._pass:
            self._pass = requests
            self.put({"t": "pass", "id": 0, "requests": requests})
        self.flush()

    def flush(self):
        if self._frames:
            frames, self._frames = self._frames, []
            self._channel.write(b"".join(frames))
