"""JSON bodies as fields: encoding, decoding, and the error that names a field. Pure."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

Json = dict[str, Any]
Fields = Mapping[str, msgspec.Raw]
"""The top level of a body. A value that nothing reads stays the bytes that came."""

encode: Final = msgspec.json.encode
decode: Final = msgspec.json.Decoder().decode
decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

NULL: Final = b"null"


class MappingError(Exception):
    """A request has no counterpart in the other protocol; `param` is the field, the message begins with it."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}")
        self.param = param


def value(fields: Fields, name: str, kind: object, description: str) -> Any:  # noqa: ANN401 - *kind* is the type
    """Return the field *name* as *kind*, None when it is absent or null; raise MappingError."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == NULL:
        return None
    try:
        return msgspec.json.decode(raw, type=cast("Any", kind))
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise MappingError(name, f"must be {description}: {exc}") from exc


def refuse_unknown(part: Mapping[str, Any], names: frozenset[str], path: str) -> None:
    """Raise MappingError for a key of *part* outside *names*, unless its value is null."""
    for name, content in part.items():
        if name not in names and content is not None:
            raise MappingError(f"{path}.{name}", "has no counterpart in the model server's protocol: leave it out")
