"""The filter of watch events: each wakes its proxy but the echo of our own status."""

from typing import Any

import pytest

from fakes.children import a_raw_proxy
from llmproxy_operator.watch.event_filter import EventFilter
from llmproxy_operator.workqueue import Key

Manifest = dict[str, Any]
KEY = Key("n", "p")


class Woken(list[Key]):
    """Keys in the order they were woken."""


def test_events_wake_their_proxy_but_the_echo_of_our_own_status_does_not() -> None:
    woken = Woken()
    bell = EventFilter(woken.append)
    raw = a_raw_proxy()
    bell.proxy(None, raw)
    written = {"observedGeneration": 1}
    bell.expect(KEY, written)

    bell.proxy("MODIFIED", {**raw, "status": written, "metadata": {**raw["metadata"], "resourceVersion": "2"}})

    assert woken == [KEY]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"spec": {"models": []}}, id="spec"),
        pytest.param({"status": {}}, id="a status that somebody wiped"),
        pytest.param({"metadata": {**a_raw_proxy()["metadata"], "labels": {"a": "b"}}}, id="a label"),
        pytest.param({"metadata": {**a_raw_proxy()["metadata"], "deletionTimestamp": "x"}}, id="deletion"),
    ],
)
def test_every_other_change_wakes(change: Manifest) -> None:
    woken = Woken()
    bell = EventFilter(woken.append)
    written = {"observedGeneration": 1}
    bell.expect(KEY, written)
    bell.proxy(None, {**a_raw_proxy(), "status": written})

    bell.proxy("MODIFIED", {**a_raw_proxy(), "status": written, **change})

    assert woken == [KEY, KEY]
