"""Speaks HTTP to a LightningStore, and says what its answers mean. The only module of the shipper that does.

A store of agentlightning 0.3.0 answers 500 both to a rollout that it does not know and when it is broken; what it says
of the rollout itself tells the two apart.
"""

import asyncio
from enum import Enum
from typing import Any, NamedTuple, Self

import aiohttp

CONNECT_S = 2.0
POST_S = 20.0
"""For a batch; a store that hangs longer is as good as gone."""
ASK_S = 5.0
CONNECTIONS = 64
PROTOBUF = {"Content-Type": "application/x-protobuf"}
_REFUSALS = {400, 413, 415, 422, 500}


class Outcome(Enum):
    """What a request came to."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Something in the batch is not taken, or was after all: a smaller one tells more."""
    UNAVAILABLE = "unavailable"
    """The store is not there or does not work; the batch is not to blame."""


class Standing(Enum):
    """What the store says of a rollout and attempt."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    SICK = "sick"
    """It does not say."""


class Answer(NamedTuple):
    """Outcome of a batch, and why in a few words without any content of calls."""

    outcome: Outcome
    why: str


class StoreError(Exception):
    """The store did not give what was asked for; the message says why."""


def outcome_of(status: int) -> Outcome:
    """Return what an HTTP status of the store says of a batch."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of successes
        return Outcome.ACCEPTED
    return Outcome.REFUSED if status in _REFUSALS else Outcome.UNAVAILABLE


class Store:
    """One LightningStore. Use as an asynchronous context manager."""

    def __init__(self, url: str) -> None:
        base = url.rstrip("/")
        self._traces = f"{base}/v1/traces"
        self._agl = f"{base}/v1/agl"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Servers of Python close an idle connection after 5 s: never send on one that is about to be.
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=3.0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, batch: bytes) -> Answer:
        """Deliver a serialized ExportTraceServiceRequest."""
        try:
            async with self._open.post(
                self._traces,
                data=batch,
                headers=PROTOBUF,
                timeout=aiohttp.ClientTimeout(total=POST_S, sock_connect=CONNECT_S),
            ) as response:
                await response.read()
                return Answer(outcome_of(response.status), f"http_{response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return Answer(Outcome.UNAVAILABLE, failure_of(exc))

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        """Return a sequence id; raise StoreError if the store gives none."""
        ids = {"rollout_id": rollout_id, "attempt_id": attempt_id}
        found = await self._ask("POST", "/spans/next", ids)
        number = found.get("sequence_id") if isinstance(found, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise StoreError("no_sequence_id")
        return number

    async def standing(self, rollout_id: str, attempt_id: str) -> Standing:
        """Return what the store says of a rollout and its attempt."""
        try:
            found = _items(await self._ask("POST", "/rollouts/search", {"rollout_id_in": [rollout_id]}))
            if not any(item.get("rollout_id") == rollout_id for item in found):
                return Standing.UNKNOWN
            path = f"/rollouts/{rollout_id}/attempts/search"
            attempts = _items(await self._ask("POST", path, {}))
        except StoreError:
            return Standing.SICK
        known = any(item.get("attempt_id") == attempt_id for item in attempts)
        return Standing.KNOWN if known else Standing.UNKNOWN

    async def resources(self) -> dict[str, Any]:
        """Return the latest of the store's named resources, empty if it has none; raise StoreError."""
        found = await self._ask("GET", "/resources/latest", None)
        if found is None:
            return {}
        resources = found.get("resources") if isinstance(found, dict) else None
        if not isinstance(resources, dict):
            raise StoreError("not_understood")
        return resources

    async def add_resources(self, resources: dict[str, Any]) -> None:
        """Make *resources* the latest; raise StoreError."""
        await self._ask("POST", "/resources", resources)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> object:
        timeout = aiohttp.ClientTimeout(total=ASK_S, sock_connect=CONNECT_S)
        try:
            async with self._open.request(method, self._agl + path, json=body, timeout=timeout) as response:
                if response.status not in {200, 201}:
                    await response.read()
                    raise StoreError(f"http_{response.status}")
                return await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise StoreError(failure_of(exc)) from exc

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a Store is used as a context manager")
        return self._session


def failure_of(exc: BaseException) -> str:
    """Return a short code for what went wrong."""
    if isinstance(exc, (TimeoutError, asyncio.TimeoutError)):
        return "timeout"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return "connect"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "closed"
    return type(exc).__name__


def _items(found: object) -> list[dict[str, Any]]:
    items = found.get("items") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise StoreError("not_understood")
    return [item for item in items if isinstance(item, dict)]
