"""One oddity: its file, checked, and what it expects of each client."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).parent / "oddities"
CLIENTS = ("chat", "responses", "messages")
MODES = ("plain", "stream")


class Expectation(msgspec.Struct, forbid_unknown_fields=True):
    """What a client gets: an answer, or an error."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, str, dict[str, Any]]] = []
    """Id, name and arguments of each."""
    error: str = ""
    """Words of the error that come instead of an answer, or that end a stream."""
    forwarded: bool = False
    """The bytes of the server, as they are."""


class Server(msgspec.Struct, forbid_unknown_fields=True):
    """What the server does."""

    protocol: str = "openai"
    plain: str = ""
    """Body of its plain answer."""
    stream: list[str] = []
    """Data of the events of its stream; what begins with a colon is a comment."""
    done: bool = True
    """It ends its stream with [DONE]."""
    first_plain: str = ""
    first_stream: list[str] = []
    """Its first answer, when another one comes after it."""
    refuses: str = ""
    """Name of a check in `server`: what it answers 400 to."""


class Oddity(msgspec.Struct, forbid_unknown_fields=True):
    """One file."""

    title: str
    seen: list[str]
    server: Server
    expect: Expectation
    request: dict[str, dict[str, Any]] = {}
    """Fields of the request, by client."""
    expect_of: dict[str, Expectation] = {}
    """Where one client, or CLIENT-MODE, gets something else."""
    tries: int = 1
    span: bool = True
    """The span holds the text and calls that are expected."""
    red: dict[str, str] = {}
    """Cells that are not right yet, CLIENT-MODE, and why."""

    def cells(self) -> list[tuple[str, str]]:
        """Return the pairs of client and mode that it has something for."""
        server = self.server
        modes = [mode for mode in MODES if server.refuses or getattr(server, mode)]
        clients = [client for client in CLIENTS if not self.request or client in self.request]
        return [(client, mode) for client in clients for mode in modes]

    def expectation(self, client: str, mode: str) -> Expectation:
        """Return what a cell expects."""
        return self.expect_of.get(f"{client}-{mode}") or self.expect_of.get(client) or self.expect


def oddities() -> dict[str, Oddity]:
    """Return all, by the name of their file."""
    return {
        path.stem: msgspec.convert(tomllib.loads(path.read_text()), Oddity) for path in sorted(FOLDER.glob("*.toml"))
    }
