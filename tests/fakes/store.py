#!/usr/bin/env python3
"""A LightningStore's protocol, as agentlightning 0.3.0 speaks it, fast and with faults on demand.

    python tests/fakes/store.py --port 0

What it must get right is what tests/agl checks against the real one: ids on the resource or the span, unknown rollouts
answered with 500 after the groups before them were stored, repeats skipped, sequence ids per rollout, nulls and nested
values refused. `POST /fake/faults` sets what goes wrong, `GET /fake/ledger` says what was stored.
"""

import argparse
import asyncio
import json
import random
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

Json = dict[str, Any]
Send = Callable[[Json], Awaitable[None]]
ROLLOUT, ATTEMPT = "agentlightning.rollout_id", "agentlightning.attempt_id"
SEQUENCE = "agentlightning.span_sequence_id"
_STATUS = {0: "UNSET", 1: "OK", 2: "ERROR"}


class RefusedError(Exception):
    """What the real store answers with 500."""


class Faults:
    """What goes wrong, by chance or always."""

    def __init__(self) -> None:
        self.unavailable = 0.0
        """Share of requests answered with 503, all routes."""
        self.lost_reply = 0.0
        """Share of batches that are stored and then answered with 500."""
        self.hang = 0.0
        """Share of requests that are never answered."""
        self.delay_s = 0.0
        self.poison = ""
        """A batch with a span that has this text in an attribute is refused."""
        self.broken = False
        """Every batch and question is answered with 500, as by a store without its database."""

    def set(self, wanted: Json) -> None:
        for name, value in wanted.items():
            if name not in vars(self):
                raise KeyError(name)
            setattr(self, name, value)


class Store:
    """What is stored."""

    def __init__(self, *, open_house: bool) -> None:
        self._open_house = open_house
        """Whether a rollout that nobody has announced is known all the same."""
        self.attempts: dict[str, list[str]] = {}
        self.spans: dict[tuple[str, str, str], Json] = {}
        self.sequence: dict[str, int] = {}
        self.first_seen: dict[tuple[str, str, str], float] = {}
        self.repeats = self.batches = self.taken = self.asked = 0

    def start_rollout(self, rollout: str = "", attempt: str = "") -> Json:
        rollout, attempt = rollout or f"ro-{uuid.uuid4().hex[:12]}", attempt or f"at-{uuid.uuid4().hex[:8]}"
        self.attempts.setdefault(rollout, []).append(attempt)
        return {"rollout_id": rollout, "status": "preparing", "attempt": {"attempt_id": attempt, "rollout_id": rollout}}

    def next_id(self, rollout: str) -> int:
        self.asked += 1
        self.sequence[rollout] = self.sequence.get(rollout, 0) + 1
        return self.sequence[rollout]

    def knows(self, rollout: str, attempt: str) -> bool:
        return self._open_house or attempt in self.attempts.get(rollout, ())

    def take(self, batch: bytes, poison: str) -> None:
        """Store a batch: group after group, until one is refused."""
        self.batches += 1
        groups: dict[tuple[str, str], list[Json]] = {}
        for span in _spans(ExportTraceServiceRequest.FromString(batch)):
            groups.setdefault((span["rollout_id"], span["attempt_id"]), []).append(span)
        for (rollout, attempt), spans in groups.items():
            if not self.knows(rollout, attempt):
                raise RefusedError(f"no rollout {rollout}")
            for span in spans:
                if any(
                    not _storable(value) or (poison and poison in str(value)) for value in span["attributes"].values()
                ):
                    raise RefusedError("an attribute that cannot be stored")
            for span in spans:
                self._add(span)

    def _add(self, span: Json) -> None:
        rollout = span["rollout_id"]
        key = (rollout, span["attempt_id"], span["span_id"])
        if span["sequence_id"] < 0:
            span["sequence_id"] = self.next_id(rollout)
        self.sequence[rollout] = max(self.sequence.get(rollout, 0), span["sequence_id"])
        if key in self.spans:
            self.repeats += 1
            return
        self.taken += 1
        self.spans[key] = span
        self.first_seen[key] = time.time()

    def query(self, rollout: str, attempt: str = "") -> list[Json]:
        found = [s for (r, a, _), s in self.spans.items() if r == rollout and attempt in {"", a}]
        return sorted(found, key=lambda s: s["sequence_id"])

    def ledger(self) -> Json:
        """Return every root span: which call, with what sequence id, how it ended, whether its id was taken late."""
        roots = [s for s in self.spans.values() if s["parent_id"] is None]
        calls = [
            [
                s["attributes"].get("llmproxy.call"),
                s["rollout_id"],
                s["sequence_id"],
                s["status"]["status_code"],
                s["attributes"].get("llmproxy.sequenced_late", False),
            ]
            for s in roots
        ]
        return {
            "calls": calls,
            "spans": len(self.spans),
            "repeats": self.repeats,
            "batches": self.batches,
            "rollouts": len(self.attempts),
            "asked": self.asked,
            "sequence": self.sequence,
        }


class App:
    """The store as an ASGI application."""

    def __init__(self, *, open_house: bool = False) -> None:
        self._open_house = open_house
        self.store = Store(open_house=open_house)
        self.faults = Faults()
        self._chance = random.Random(7)

    async def __call__(self, scope: Json, receive: Callable[[], Awaitable[Json]], send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path, method = scope["path"], scope["method"]
        if path.startswith("/fake/"):
            await _answer(send, 200, self._control(path, body))
            return
        faults = self.faults
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if faults.hang and self._chance.random() < faults.hang:
            await asyncio.sleep(3600)
        if faults.unavailable and self._chance.random() < faults.unavailable:
            await _answer(send, 503, {"detail": "by order"})
            return
        if faults.broken:
            await _answer(send, 500, {"detail": "by order"})
            return
        try:
            status, found = self._route(method, path, scope["query_string"].decode(), body)
        except RefusedError as exc:
            status, found = 500, {"detail": str(exc), "traceback": "..."}
        if path == "/v1/traces" and status == 200 and self._chance.random() < faults.lost_reply:
            status, found = 500, {"detail": "by order, after storing"}
        await _answer(send, status, found)

    def _control(self, path: str, body: bytes) -> Json:
        if path == "/fake/faults":
            self.faults.set(json.loads(body))
        elif path == "/fake/empty":
            self.store = Store(open_house=self._open_house)
        elif path == "/fake/start":
            wanted = json.loads(body)
            return {"started": [self.store.start_rollout(*ids) for ids in wanted]}
        return self.store.ledger() if path == "/fake/ledger" else {}

    def _route(  # noqa: PLR0911 - a row a route
        self, method: str, path: str, query: str, body: bytes
    ) -> tuple[int, Any]:
        store = self.store
        if path == "/v1/traces":
            store.take(body, self.faults.poison)
            return 200, b""
        if path == "/v1/agl/health":
            return 200, {"status": "ok"}
        wanted = json.loads(body) if body else {}
        if path == "/v1/agl/spans/next":
            return 200, {"sequence_id": store.next_id(wanted["rollout_id"])}
        if path == "/v1/agl/rollouts" and method == "POST":
            return 201, store.start_rollout()
        if path == "/v1/agl/rollouts/search":
            known = [r for r in wanted["rollout_id_in"] if self._open_house or r in store.attempts]
            return 200, _page([{"rollout_id": r} for r in known])
        parts = path.split("/")
        if path.startswith("/v1/agl/rollouts/") and path.endswith("/attempts/search"):
            return 200, _page([{"attempt_id": a} for a in store.attempts.get(parts[4], ())])
        if path == "/v1/agl/spans":
            asked = dict(item.split("=", 1) for item in query.split("&") if "=" in item)
            return 200, _page(store.query(asked["rollout_id"], asked.get("attempt_id", "")))
        return 404, {"detail": "Not Found"}


def _page(items: list[Json]) -> Json:
    return {"items": items, "limit": -1, "offset": 0, "total": len(items)}


def _spans(request: ExportTraceServiceRequest) -> Iterator[Json]:
    for resource_spans in request.resource_spans:
        shared = {kv.key: _python(kv.value) for kv in resource_spans.resource.attributes}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                attributes = {kv.key: _python(kv.value) for kv in span.attributes}
                ids = {**shared, **attributes}
                if ids.get(ROLLOUT) is None or ids.get(ATTEMPT) is None:
                    continue  # dropped with a warning, and 200
                yield {
                    "rollout_id": str(ids[ROLLOUT]),
                    "attempt_id": str(ids[ATTEMPT]),
                    "sequence_id": _number(ids.get(SEQUENCE)),
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex() or None,
                    "name": span.name,
                    "status": {"status_code": _STATUS[span.status.code], "description": span.status.message or None},
                    "attributes": attributes,
                    "events": [
                        {"name": e.name, "attributes": {kv.key: _python(kv.value) for kv in e.attributes}}
                        for e in span.events
                    ],
                    "start_time": span.start_time_unix_nano / 1e9,
                    "end_time": span.end_time_unix_nano / 1e9,
                    "resource": {"attributes": shared, "schema_url": ""},
                }


def _python(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_python(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {kv.key: _python(kv.value) for kv in value.kvlist_value.values}
    return getattr(value, kind)


def _number(value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        return -1


def _storable(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, (str, bool, int, float)) for item in value)
    return isinstance(value, (str, bool, int, float))


async def _answer(send: Send, status: int, found: Any) -> None:
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    kind = b"application/x-protobuf" if isinstance(found, bytes) else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"store double ready on {self._address}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="A LightningStore's protocol with faults on demand.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--open-house", action="store_true", help="know every rollout")
    flags = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", flags.port), backlog=2048)
    config = uvicorn.Config(
        App(open_house=flags.open_house),
        log_level="critical",
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    _Server(config, f"http://127.0.0.1:{listener.getsockname()[1]}").run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
