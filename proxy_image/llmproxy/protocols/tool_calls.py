"""Tool calls of a stream, put together from their pieces: which call a piece belongs to. Pure.

Servers number the calls of an answer by `index`; some number all of them 0, some none, some repeat id and name in each
piece. So a piece with another id and a name begins another call, whatever its index is.
"""

from typing import Final

import msgspec

from llmproxy.protocols.json_fields import decode

_GROWTH: Final = 1.1


class StreamedCall:
    """One call on its way."""

    __slots__ = ("_looked_at", "_parts", "_size", "id", "name", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.name = ""
        self._parts: list[str] = []
        self._size = 0
        self._looked_at = 0

    @property
    def arguments(self) -> str:
        """The arguments so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def extend(self, arguments: str) -> None:
        """Add a piece of the arguments."""
        if arguments:
            self._parts.append(arguments)
            self._size += len(arguments)

    def is_complete(self) -> bool:
        """Return True when the arguments are a whole JSON object."""
        # Looked at again only once they have grown: work stays linear in their length, but for a logarithm.
        if self._size < self._looked_at * _GROWTH or not self._parts or not self._parts[-1].rstrip().endswith("}"):
            return False
        self._looked_at = self._size
        try:
            return isinstance(decode(self.arguments), dict)
        except msgspec.MsgspecError:
            return False


class StreamedCalls:
    """The calls of one answer, in the order in which they begin."""

    __slots__ = ("_by_index", "calls")

    def __init__(self) -> None:
        self.calls: list[StreamedCall] = []
        self._by_index: dict[int, StreamedCall] = {}

    def add(self, index: int | None, ident: str, name: str, arguments: str) -> StreamedCall:
        """Add a piece; return its call."""
        call = self._find(index, ident, name)
        if call is None:
            call = StreamedCall(len(self.calls))
            self.calls.append(call)
        if index is not None:
            self._by_index[index] = call
        call.id = call.id or ident
        call.name = call.name or name
        call.extend(arguments)
        return call

    def _find(self, index: int | None, ident: str, name: str) -> StreamedCall | None:
        if index is not None:
            call = self._by_index.get(index)
            return None if call is not None and ident and name and call.id and call.id != ident else call
        if ident:
            return next((call for call in self.calls if call.id == ident), None)
        last = self.calls[-1] if self.calls else None
        if last is None or not name or not last.name:
            return last
        return last if last.name == name and not last.is_complete() else None
