"""What streams that are mapped from one protocol to another have in common: reading events, and their end. Pure."""

from llmproxy.protocols.sse import Events


class MappedStream:
    """One stream; a subclass says what becomes of an event."""

    def __init__(self) -> None:
        self._events = Events()
        self.done = False
        """Its end, or an error, has been said."""
        self.failed = False
        """It was an error."""

    @property
    def pending(self) -> int:
        """Bytes of an event without an end."""
        return self._events.pending

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the events to send now, and those that end the stream."""
        return self._take(self._events.feed(data))

    def end(self) -> tuple[bytes, bytes]:
        """The upstream has ended in order: return the last events; an error if its answer was not complete."""
        now, last = self._take(self._events.rest())
        if self.done:
            return now, last
        if self._is_complete():
            return now, self._stop()
        return now, self._broken("the model server ended the stream before the answer's end")

    def _take(self, contents: list[bytes]) -> tuple[bytes, bytes]:
        made: list[bytes] = []
        last = b""
        for content in contents:
            if self.done:
                break
            last = self._read(content, made)
        return b"".join(made), last

    def _read(self, content: bytes, made: list[bytes]) -> bytes:
        """Add to *made* what becomes of an event; return what ends the stream, or nothing."""
        raise NotImplementedError

    def _is_complete(self) -> bool:
        """Whether the answer was whole, though its last event did not come."""
        raise NotImplementedError

    def _stop(self) -> bytes:
        """Return the events of a good end."""
        raise NotImplementedError

    def _broken(self, problem: str) -> bytes:
        """Return the event of an end that is none."""
        raise NotImplementedError
