"""Kubernetes Events: one per reason, counted, and never anew for what a status said already."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fakes.children import a_raw_proxy
from fakes.cluster import FakeCluster
from llmproxy_operator.errors import RefusedError
from llmproxy_operator.event_recorder import EventRecorder
from llmproxy_operator.manifest import Ref

Manifest = dict[str, Any]


def a_status(kind: str, reason: str, message: str = "m") -> Manifest:
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


def events(cluster: FakeCluster) -> list[tuple[str, str, int]]:
    found = [item for item in cluster.objects.values() if item["kind"] == "Event"]
    return [(item["type"], item["reason"], item["count"]) for item in found]


def said(cluster: FakeCluster, reason: str) -> str:
    [message] = [e["message"] for e in cluster.objects.values() if (e["kind"], e.get("reason")) == ("Event", reason)]
    return str(message)


def crashing(nth: int) -> Manifest:
    return a_status("Stalled", "CrashLoop", f"code 2: 10:00:0{nth} no")


async def test_a_change_is_announced_once_and_repeats_are_counted_whatever_their_words() -> None:
    cluster, clock = FakeCluster(), Clock()
    recorder = EventRecorder(cluster, instance="pod", now=clock)
    ready = a_status("Ready", "AllReplicasReady")

    for nth in range(20):
        await recorder.record(a_raw_proxy(), ready, crashing(nth))
        await recorder.record(a_raw_proxy(), crashing(nth), crashing(nth + 1))
        await recorder.record(a_raw_proxy(), crashing(nth + 1), ready)
    assert sorted(events(cluster)) == [("Normal", "AllReplicasReady", 1), ("Warning", "CrashLoop", 1)]
    assert cluster.writes.total() == 2
    assert said(cluster, "CrashLoop") == "code 2: 10:00:00 no"

    clock.at += timedelta(minutes=2)
    await recorder.record(a_raw_proxy(), ready, crashing(7))
    assert ("Warning", "CrashLoop", 21) in events(cluster)
    assert said(cluster, "CrashLoop") == "code 2: 10:00:07 no"


async def test_another_proxy_of_the_same_name_has_events_of_its_own() -> None:
    cluster = FakeCluster()
    recorder = EventRecorder(cluster, instance="pod", now=Clock())

    for raw in (a_raw_proxy(), a_raw_proxy("another")):
        await recorder.record(raw, a_status("Ready", "AllReplicasReady"), crashing(1))

    assert events(cluster) == [("Warning", "CrashLoop", 1)] * 2


async def test_an_event_whose_time_is_over_is_made_anew() -> None:
    class Forgetting(FakeCluster):
        async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
            if target not in self.objects:
                raise RefusedError("not found", status=404)
            return await super().merge(target, change)

    cluster, clock = Forgetting(), Clock()
    recorder = EventRecorder(cluster, instance="pod", now=clock)
    ready = a_status("Ready", "AllReplicasReady")
    await recorder.record(a_raw_proxy(), ready, crashing(1))
    [event] = cluster.objects
    cluster.remove(event)

    clock.at += timedelta(hours=2)
    await recorder.record(a_raw_proxy(), ready, crashing(2))

    assert events(cluster) == [("Warning", "CrashLoop", 1)]
    assert said(cluster, "CrashLoop") == "code 2: 10:00:02 no"


async def test_what_a_status_of_before_said_already_is_not_announced() -> None:
    cluster = FakeCluster()
    stalled = a_status("Stalled", "CrashLoop")

    await EventRecorder(cluster, instance="pod", now=Clock()).record(a_raw_proxy(), stalled, stalled)

    assert events(cluster) == []


async def test_that_a_new_proxy_is_being_made_is_not_announced_and_a_roll_of_one_that_ran_is() -> None:
    cluster = FakeCluster()
    recorder = EventRecorder(cluster, instance="pod", now=Clock())
    ready, rolling = a_status("Ready", "AllReplicasReady"), a_status("Reconciling", "RollingOut")

    await recorder.record(a_raw_proxy(), {}, rolling)
    assert events(cluster) == []

    await recorder.record(a_raw_proxy(), ready, rolling)
    assert events(cluster) == [("Normal", "RollingOut", 1)]


async def test_an_event_that_is_refused_is_no_error_of_the_reconcile(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(FakeCluster):
        async def create(self, manifest: Manifest) -> Manifest:
            raise RefusedError("no", status=403)

    recorder = EventRecorder(Refusing(), instance="pod", now=Clock())
    await recorder.record(a_raw_proxy(), {}, a_status("Ready", "AllReplicasReady"))

    assert "event_not_written" in caplog.text
