"""HTTP client of a LightningStore, and the meaning of its answers.

A store of agentlightning 0.3.0 answers 500 both for an unknown rollout and when it is broken; a search for the rollout
tells the two apart.
"""

import asyncio
from enum import Enum
from typing import Any, NamedTuple, Self

import aiohttp

CONNECT_S = 2.0
POST_S = 20.0
"""Timeout of a batch; a store that hangs longer counts as unavailable."""
API_S = 5.0
CONNECTIONS = 64
PROTOBUF = {"Content-Type": "application/x-protobuf"}
_REFUSALS = {400, 413, 415, 422, 500}


class Outcome(Enum):
    """Outcome of the delivery of a batch."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Something in the batch may be at fault; a smaller batch tells more."""
    UNAVAILABLE = "unavailable"
    """The receiver is away or broken; the batch is not at fault."""


class RolloutState(Enum):
    """State of a rollout and attempt in the store."""

    EXISTS = "exists"
    MISSING = "missing"
    UNDETERMINED = "undetermined"
    """The store did not answer the search."""


class DeliveryResult(NamedTuple):
    """Outcome of a batch with a short reason, free of any content of calls."""

    outcome: Outcome
    reason: str


class LightningStoreError(Exception):
    """Failed request to the store; the message is a short reason."""


def outcome_of(status: int) -> Outcome:
    """Return the outcome of a batch that the store answered with HTTP *status*."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of successes
        return Outcome.ACCEPTED
    return Outcome.REFUSED if status in _REFUSALS else Outcome.UNAVAILABLE


class LightningStore:
    """Client of one LightningStore. Use as an asynchronous context manager."""

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

    async def post(self, batch: bytes) -> DeliveryResult:
        """Deliver a serialized ExportTraceServiceRequest."""
        try:
            async with self._open.post(
                self._traces,
                data=batch,
                headers=PROTOBUF,
                timeout=aiohttp.ClientTimeout(total=POST_S, sock_connect=CONNECT_S),
            ) as response:
                await response.read()
                return DeliveryResult(outcome_of(response.status), f"http_{response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return DeliveryResult(Outcome.UNAVAILABLE, failure_of(exc))

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        """Return a sequence id; raise LightningStoreError if the store gives none."""
        ids = {"rollout_id": rollout_id, "attempt_id": attempt_id}
        answer = await self._request("POST", "/spans/next", ids)
        number = answer.get("sequence_id") if isinstance(answer, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise LightningStoreError("no_sequence_id")
        return number

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:
        """Return the state of a rollout and its attempt."""
        try:
            rollouts = _items(await self._request("POST", "/rollouts/search", {"rollout_id_in": [rollout_id]}))
            if not any(item.get("rollout_id") == rollout_id for item in rollouts):
                return RolloutState.MISSING
            path = f"/rollouts/{rollout_id}/attempts/search"
            attempts = _items(await self._request("POST", path, {}))
        except LightningStoreError:
            return RolloutState.UNDETERMINED
        exists = any(item.get("attempt_id") == attempt_id for item in attempts)
        return RolloutState.EXISTS if exists else RolloutState.MISSING

    async def resources(self) -> dict[str, Any]:
        """Return the latest named resources, empty if there are none; raise LightningStoreError."""
        answer = await self._request("GET", "/resources/latest", None)
        if answer is None:
            return {}
        resources = answer.get("resources") if isinstance(answer, dict) else None
        if not isinstance(resources, dict):
            raise LightningStoreError("unexpected_answer")
        return resources

    async def add_resources(self, resources: dict[str, Any]) -> None:
        """Make *resources* the latest version; raise LightningStoreError."""
        await self._request("POST", "/resources", resources)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> object:
        timeout = aiohttp.ClientTimeout(total=API_S, sock_connect=CONNECT_S)
        try:
            async with self._open.request(method, self._agl + path, json=body, timeout=timeout) as response:
                if response.status not in {200, 201}:
                    await response.read()
                    raise LightningStoreError(f"http_{response.status}")
                return await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise LightningStoreError(failure_of(exc)) from exc

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a LightningStore is used as a context manager")
        return self._session


def failure_of(exc: BaseException) -> str:
    """Return a short code for a transport failure."""
    if isinstance(exc, (TimeoutError, asyncio.TimeoutError)):
        return "timeout"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return "connect"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "closed"
    return type(exc).__name__


def _items(answer: object) -> list[dict[str, Any]]:
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise LightningStoreError("unexpected_answer")
    return [item for item in items if isinstance(item, dict)]
