"""Lists and watches that fill the cache, through gaps and errors."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from fakes.children import a_child, known
from llmproxy_operator.cluster import ObjectList, WatchEvent
from llmproxy_operator.errors import RefusedError, UnavailableError
from llmproxy_operator.watch import informer
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.watch.informer import Informer

Manifest = dict[str, Any]


Step = list[WatchEvent | Exception]


class Played:
    """An API server with Services only: lists and watches as a test has written them down."""

    def __init__(self, lists: list[ObjectList | Exception], watches: list[Step]) -> None:
        self.lists, self.watches = lists, watches
        self.since: list[str] = []
        self.done = asyncio.Event()

    async def collect(self, api_version: str, kind: str, namespace: str, labels: dict[str, str]) -> ObjectList:
        if kind != "Service":
            return ObjectList((), "")
        found = self.lists.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def watch(
        self, api_version: str, kind: str, namespace: str, labels: dict[str, str], *, since: str, for_s: float
    ) -> AsyncGenerator[WatchEvent]:
        self.since.append(since)
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()
        for step in self.watches.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


Follow = Callable[[list[ObjectList | Exception], list[Step]], Any]


@pytest.fixture
def follow(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Follow:
    monkeypatch.setattr(informer, "FIRST_BACKOFF_S", 0.001)

    async def run(lists: list[ObjectList | Exception], watches: list[Step]) -> Played:
        played = Played(lists, watches)
        made = Informer(played, cache, namespaces=(), jitter=lambda: 0.0)
        task = asyncio.create_task(made.run())
        await asyncio.wait_for(made.synced(""), 10)
        await asyncio.wait_for(played.done.wait(), 10)
        task.cancel()
        return played

    return run


async def test_a_watch_that_breaks_goes_on_where_it_was(cache: Cache, follow: Follow) -> None:
    broken = UnavailableError("cut")
    bookmark = WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "20"}})
    watches: list[Step] = [[WatchEvent("ADDED", a_child(11, "b")), broken], [bookmark], [broken]]

    played = await follow([ObjectList((a_child(9, "a"),), "10")], watches)

    assert played.since == ["10", "11", "20", "20"]
    assert known(cache) == {"a": "9", "b": "11"}


async def test_where_the_past_is_not_known_any_more_there_is_another_list(cache: Cache, follow: Follow) -> None:
    lists: list[ObjectList | Exception] = [
        ObjectList((a_child(9, "gone"), a_child(8, "stays")), "10"),
        UnavailableError("not now", status=503),
        ObjectList((a_child(8, "stays"),), "30"),
    ]

    played = await follow(lists, [[UnavailableError("too old", status=410)]])

    assert played.since == ["10", "30"]
    assert known(cache) == {"stays": "8"}


async def test_a_right_that_is_missing_is_said_and_asked_for_again(
    cache: Cache, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    refused = RefusedError("LIST Service /: forbidden", status=403)

    await follow([refused, refused, ObjectList((a_child(9, "a"),), "10")], [])

    assert known(cache) == {"a": "9"}
    assert [r.__dict__["error"] for r in caplog.records if r.message == "watch_failed"] == ["LIST Service /: forbidden"]
