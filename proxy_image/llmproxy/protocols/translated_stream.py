"""Streams that are translated from one protocol to another: their events in, their end, and two in a chain. Pure."""

from llmproxy.protocols.events import AnswerFailure, event_failure
from llmproxy.protocols.sse import EventReader, event_data


class TranslatedStream:
    """One stream; a subclass translates an event."""

    def __init__(self) -> None:
        self._reader = EventReader()
        self.done = False
        """The end, or an error, is written."""
        self.failed = False
        """It is an error."""

    @property
    def tokens(self) -> int | None:
        """Tokens used, None until the upstream counts them."""
        raise NotImplementedError

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the events to send now, and those that end the stream. Raise EventTooLargeError."""
        out: list[bytes] = []
        end = b""
        for event in self._reader.feed(data):
            if self.done:
                break
            end = self._data(event, out)
        return b"".join(out), end

    def rest(self) -> bytes:
        """Return the last events of a stream that has closed in order; an error if its answer is not complete."""
        out: list[bytes] = []
        end = b""
        if not self.done:
            end = self._data(self._reader.rest(), out)
        if not self.done:
            whole = self._is_complete()
            end = self._stop() if whole else self._broken("the model server ended the stream before the answer's end")
        return b"".join([*out, end])

    def _data(self, event: bytes, out: list[bytes]) -> bytes:
        data = event_data(event)
        if not data:
            return b""
        failure = event_failure(data)
        if failure is not None:
            self.done = self.failed = True
            return self._error(failure)
        return self._read(data, out)

    def _read(self, data: bytes, out: list[bytes]) -> bytes:
        """Translate the data of an event into *out*; return what ends the stream, or nothing."""
        raise NotImplementedError

    def _is_complete(self) -> bool:
        """Return True when the answer is whole, though its last event has not come."""
        raise NotImplementedError

    def _stop(self) -> bytes:
        """Return the events of a good end."""
        raise NotImplementedError

    def _broken(self, problem: str) -> bytes:
        """Return the event of an end before the answer's."""
        self.done = self.failed = True
        return self._error(AnswerFailure(problem, 502))

    def _error(self, failure: AnswerFailure) -> bytes:
        """Return the event of an error."""
        raise NotImplementedError


class ChainedStream:
    """Two translations of a stream, one after the other."""

    def __init__(self, first: TranslatedStream, second: TranslatedStream) -> None:
        self._first = first
        self._second = second

    @property
    def done(self) -> bool:
        """True once the end, or an error, is written."""
        return self._second.done

    @property
    def failed(self) -> bool:
        """True when it is an error."""
        return self._second.failed

    @property
    def tokens(self) -> int | None:
        """Tokens used, None until the upstream counts them."""
        return self._first.tokens

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the events to send now, and those that end the stream."""
        return self._second.feed(b"".join(self._first.feed(data)))

    def rest(self) -> bytes:
        """Return the last events of a stream that has closed in order."""
        return b"".join([*self._second.feed(self._first.rest()), self._second.rest()])
