"""Answers of a store or collector that are no delivery, each with a way out."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmproxy.shipper.delivery.http_client import MAX_POST_ANSWER, DeliveryResult, Outcome, ReceiverError
from llmproxy.shipper.delivery.lightning_store import LightningStore, RolloutState
from llmproxy.shipper.delivery.otlp_collector import OtlpCollector
from llmproxy.shipper.metrics import ShipperCounters

ITEMS = b'{"items": [{"rollout_id": "ro", "attempt_id": "at"}]}'


def answer(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class ScriptedServer:
    """Server whose answers are raw bytes, by path."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {"/v1/agl/rollouts/search": answer(body=ITEMS)}
        self.requests: list[tuple[str, bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                length = next(int(i[15:]) for i in head.lower().split("\r\n") if i.startswith("content-length:"))
                self.requests.append((path, await reader.readexactly(length)))
                writer.write(self.answers.get(path, answer("404 Not Found")))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


@asynccontextmanager
async def scripted(traces: bytes) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.answers["/v1/traces"] = traces
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()


PAGE = b"<!doctype html><html>log in</html>"
ALL_REJECTED = b"\x0a\x08\x08\x04\x12\x04nope"
SAME_METHOD = answer("307 Temporary Redirect", b"", "location: /v1/traces")
BOMB = answer("200 OK", gzip.compress(b"\0" * (64 << 20)), "content-encoding: gzip")
LOGIN = "location: https://auth.example.com/login?token=hush"
NO_DELIVERY = {
    "redirect": (answer("302 Found", b"", LOGIN), "http_302", "name the address itself in spans.store"),
    "redirect that keeps the method": (SAME_METHOD, "http_307", "spans.store"),
    "page": (answer("200 OK", PAGE, "content-type: text/html; charset=utf-8"), "html_answer", "spans.store"),
    "page without a type": (answer("200 OK", b"\n" + PAGE), "html_answer", "spans.store"),
    "page as protobuf": (answer("200 OK", PAGE, "content-type: application/x-protobuf"), "html_answer", "spans.store"),
    "text": (answer("200 OK", b"hello world"), "unexpected_answer", "spans.store"),
    "long": (answer("200 OK", b"x" * (MAX_POST_ANSWER + 1)), "answer_too_large", "spans.store"),
    "bomb": (BOMB, "answer_too_large", "spans.store"),
    "unknown coding": (answer("200 OK", b"xx", "content-encoding: br"), "content_encoding", "answer"),
    "broken gzip": (answer("200 OK", b"xx", "content-encoding: gzip"), "content_encoding", "answer"),
    "login": (answer("401 Unauthorized"), "http_401", "credentials"),
    "wrong base": (answer("404 Not Found"), "http_404", "base address"),
}  # fmt: skip


@pytest.mark.parametrize(("traces", "reason", "advice"), NO_DELIVERY.values(), ids=NO_DELIVERY)
async def test_what_no_lightningstore_answers_is_no_delivery_and_names_the_way_out(
    traces: bytes, reason: str, advice: str
) -> None:
    async with scripted(traces) as server, LightningStore(server.url) as store:
        result = await store.post(b"batch", 3)
        assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, reason)
        assert advice in result.advice
        assert "hush" not in result.advice
        assert server.paths() == ["/v1/agl/rollouts/search", "/v1/traces"]  # no redirect was followed


@pytest.mark.parametrize(
    "traces",
    [
        answer(),
        answer("200 OK", b"", "content-type: application/json"),
        answer("200 OK", b"{}", "content-type: application/json"),
        answer("200 OK", b'{"partialSuccess": {"rejectedSpans": "0"}}'),
        answer("200 OK", gzip.compress(b"", mtime=0), "content-encoding: gzip"),
        answer("202 Accepted"),
        answer("200 OK", b"\x0a\x00"),
    ],
)
async def test_what_a_lightningstore_answers_is_a_delivery(traces: bytes) -> None:
    async with scripted(traces) as server, LightningStore(server.url) as store:
        assert (await store.post(b"batch", 3)).outcome is Outcome.ACCEPTED
        assert (await store.post(b"batch", 3)).outcome is Outcome.ACCEPTED
        assert server.paths() == ["/v1/agl/rollouts/search", "/v1/traces", "/v1/traces"]


@pytest.mark.parametrize("body", [ALL_REJECTED, b'{"partialSuccess": {"rejectedSpans": "4", "errorMessage": "nope"}}'])
async def test_spans_that_a_store_drops_are_refused_and_not_delivered(body: bytes) -> None:
    async with scripted(answer("200 OK", body)) as server, LightningStore(server.url) as store:
        result = await store.post(b"batch", 4)
        assert (result.outcome, result.reason) == (Outcome.REFUSED, "partial_success")


@pytest.mark.parametrize("search", [answer("200 OK", PAGE), answer("200 OK", b"{}"), answer("302 Found", b"", LOGIN)])
async def test_a_server_that_takes_everything_is_sent_no_batch_before_it_is_known_to_be_a_store(search: bytes) -> None:
    async with scripted(answer()) as server, LightningStore(server.url) as store:
        server.answers["/v1/agl/rollouts/search"] = search
        result = await store.post(b"batch", 3)
        assert result.outcome is Outcome.UNAVAILABLE
        assert "spans.store" in result.advice
        assert server.paths() == ["/v1/agl/rollouts/search"]


async def test_a_store_is_identified_again_after_a_failure() -> None:
    async with scripted(answer()) as server, LightningStore(server.url) as store:
        server.answers["/v1/agl/spans/next"] = answer("200 OK", b'{"sequence_id": 7}')
        assert await store.next_id("ro", "at") == 7
        assert (await store.post(b"batch", 1)).outcome is Outcome.ACCEPTED
        server.answers["/v1/traces"] = answer("503 Service Unavailable")
        await store.post(b"batch", 1)
        server.answers["/v1/traces"] = answer()
        await store.post(b"batch", 1)
        assert server.paths()[-2:] == ["/v1/agl/rollouts/search", "/v1/traces"]


@pytest.mark.parametrize(
    ("rollout", "segment"),
    [
        ("../../resources/latest?x=", "..%2F..%2Fresources%2Flatest%3Fx%3D"),
        ("a/b", "a%2Fb"), ("a#b", "a%23b"), ("a?b", "a%3Fb"), ("é", "%C3%A9"), ("//x/", "%2F%2Fx%2F"),
        ("..", "%2E%2E"), (".", "%2E"), ("%2e%2e", "%252e%252e"), ("a\r\nX-Evil: 1", "a%0D%0AX-Evil%3A%201"),
    ],
)  # fmt: skip
async def test_a_rollouts_id_is_one_segment_of_a_path_whatever_it_holds(rollout: str, segment: str) -> None:
    async with scripted(answer()) as server, LightningStore(server.url) as store:
        items = f'{{"items": [{{"rollout_id": {json.dumps(rollout)}}}]}}'.encode()
        server.answers["/v1/agl/rollouts/search"] = answer("200 OK", items)
        assert await store.rollout_state(rollout, "at") is RolloutState.MISSING
        assert server.paths() == ["/v1/agl/rollouts/search", f"/v1/agl/rollouts/{segment}/attempts/search"]


async def test_an_answer_of_the_api_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmproxy.shipper.delivery.lightning_store.MAX_API_ANSWER", 1000)
    bomb = answer("200 OK", gzip.compress(b" " * (8 << 20)), "content-encoding: gzip")
    async with scripted(answer()) as server, LightningStore(server.url) as store:
        for path in ("/v1/agl/spans/next", "/v1/agl/resources/latest"):
            server.answers[path] = bomb
        with pytest.raises(ReceiverError, match="answer_too_large"):
            await store.next_id("ro", "at")
        with pytest.raises(ReceiverError, match="answer_too_large"):
            await store.resources()


async def posted(body: bytes, spans: int, *headers: str, status: str = "200 OK") -> tuple[DeliveryResult, int]:
    counters = ShipperCounters()
    async with (
        scripted(answer(status, body, *headers)) as server,
        OtlpCollector(server.url, {"authorization": "key"}, counters) as collector,
    ):
        return await collector.post(b"batch", spans), counters.rejected_spans


async def test_spans_that_a_collector_drops_are_counted_and_a_batch_without_any_left_is_no_delivery() -> None:
    result, rejected = await posted(ALL_REJECTED, 4)
    assert (result.outcome, result.reason, rejected) == (Outcome.DROPPED, "partial_success", 4)
    result, rejected = await posted(ALL_REJECTED, 5)
    assert (result.outcome, rejected) == (Outcome.ACCEPTED, 4)


async def test_a_page_is_no_collector_and_a_text_may_be_one() -> None:
    result, _ = await posted(PAGE, 1)
    assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "html_answer")
    assert "spans.otlp.endpoint" in result.advice
    result, _ = await posted(b"", 1, LOGIN, status="302 Found")
    assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "http_302")
    assert (await posted(b"ok", 1))[0].outcome is Outcome.ACCEPTED
