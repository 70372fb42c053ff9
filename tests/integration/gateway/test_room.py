"""Calls that end faster than the shipper takes them: they wait for room, and no longer than it goes on taking some."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

import spanrig
from integration.gateway.conftest import PATH, Echo, Gateway, deployment, document, gateway
from waiting import until

LARGE = "x" * (1 << 20)
"""Nine of them are more than a gateway keeps before answers wait."""


class Halting:
    """A gateway whose shipper stands still at times."""

    def __init__(self, here: Gateway, shipper: spanrig.ShipperProcess, threads: ThreadPoolExecutor) -> None:
        self.here = here
        self._shipper = shipper
        self._threads = threads

    def signal(self, number: signal.Signals) -> None:
        assert self._shipper.process is not None
        self._shipper.process.signal(number)

    def call(self, text: str = LARGE) -> "Future[httpx2.Response]":
        say = {"role": "user", "content": '{"echo": {"say": "ok"}}'}
        body = {"model": "echo", "messages": [{"role": "user", "content": text}, say]}
        return self._threads.submit(self.here.post, body, "/rollout/ro-1/attempt/at-1" + PATH)

    def handed(self, name: str) -> float:
        return self.here.metric(f"llmproxy_records_{name}")


@pytest.fixture
def halting(echo: Echo, tmp_path: Path) -> Iterator[Halting]:
    with spanrig.store_double() as store, spanrig.shipper(tmp_path, store, ack_wait_s=0) as shipper:
        run = tmp_path / "gateway"
        run.mkdir()
        (run / "shipper.sock").symlink_to(tmp_path / "shipper.sock")
        spans = {"store": store.url, "ack_wait_s": 0}
        with gateway(run, document(deployment(echo.port), spans=spans)) as here, ThreadPoolExecutor(32) as threads:
            made = Halting(here, shipper, threads)
            until(lambda: here.admin("/readyz").json()["shipper"])
            yield made
            made.signal(signal.SIGCONT)  # so that both can end


def test_answers_wait_for_room_and_no_record_is_lost(halting: Halting) -> None:
    assert halting.call("hi").result().status_code == 200
    until(lambda: halting.handed("durable_total") == 1)
    sent = [halting.call() for _ in range(40)]
    while not all(call.done() for call in sent):  # it takes some each time, far less than comes
        halting.signal(signal.SIGSTOP)
        time.sleep(0.3)
        halting.signal(signal.SIGCONT)
        time.sleep(0.02)
    assert {call.result().status_code for call in sent} == {200}
    assert halting.handed("delayed_total") > 0
    until(lambda: halting.handed("durable_total") == 41)
    assert halting.handed("dropped_total") == 0


def test_nobody_waits_for_a_shipper_that_takes_nothing(halting: Halting) -> None:
    halting.signal(signal.SIGSTOP)
    for call in [halting.call() for _ in range(20)]:
        call.result()
    time.sleep(1)
    waited = halting.handed("delayed_total")
    assert [halting.call("hi").result().status_code for _ in range(5)] == [200] * 5
    assert halting.handed("delayed_total") == waited
    halting.signal(signal.SIGCONT)
    until(lambda: halting.handed("durable_total") == 25)
    assert halting.handed("dropped_total") == 0
