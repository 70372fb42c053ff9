"""Behaviour of the echo server for one request: flags, then headers, then a directive in the message. Pure.

A header `x-echo-status: 503` and a user message that is nothing but `{"echo": {"status": 503}}` say the same; the
message gets through proxies that drop headers they do not know. `{"echo": {"say": "..."}}` has it say something else.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

HEADER_PREFIX = b"x-echo-"
MAX_WAIT_MS = 600_000
MAX_CHUNKS = 100_000

Milliseconds = Annotated[float, Meta(ge=0, le=MAX_WAIT_MS)]


class DirectiveError(Exception):
    """A header or directive cannot be used; the message names it."""


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one response."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    """From 400 on, an error in OpenAI's shape is the answer."""
    retry_after: Annotated[str, Meta(max_length=64, pattern="^[ -~]*$")] = ""
    """Value of the header Retry-After, whatever the status."""
    delay_ms: Milliseconds = 0
    """Wait before the first byte."""
    chunk_ms: Milliseconds = 0
    """Wait before each piece of the text, streamed or not."""
    chunks: Annotated[int, Meta(ge=1, le=MAX_CHUNKS)] | None = None
    """Answer in that many pieces, whatever was said."""
    die_after_chunks: Annotated[int, Meta(ge=0, le=MAX_CHUNKS)] | None = None
    """Close the connection after that many pieces of a stream, or in the middle of a plain answer."""
    say: Annotated[str, Meta(max_length=1 << 20)] | None = None
    """Text to repeat in place of the message."""
    think: Annotated[str, Meta(max_length=1 << 20)] = ""
    """Reasoning before the answer, in chat."""


def read(defaults: Mapping[str, Any], headers: Iterable[tuple[bytes, bytes]], message: str) -> Behaviour:
    """Return the settings for *message*; raise DirectiveError naming what cannot be used."""
    fields = dict(defaults)
    for name, value in headers:
        if name.startswith(HEADER_PREFIX):
            fields[name[len(HEADER_PREFIX) :].decode("latin-1").replace("-", "_")] = value.decode("latin-1")
    fields.update(_directive(message))
    try:
        return msgspec.convert(fields, Behaviour, strict=False)
    except msgspec.ValidationError as exc:
        names = ", ".join(Behaviour.__struct_fields__)
        raise DirectiveError(f"echo directive: {exc}; there are {names}") from exc


def _directive(message: str) -> dict[str, Any]:
    text = message.strip()
    if not text.startswith("{"):
        return {}
    try:
        parsed = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    fields = parsed.get("echo") if isinstance(parsed, dict) else None
    return fields if isinstance(fields, dict) else {}
