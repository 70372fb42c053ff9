"""Small parts: whose an object is, what may be shown, who is woken, what is announced, logged and answered."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from fakes.cluster import FakeCluster
from llmproxy_api import LLMProxy, parse
from llmproxy_operator.__main__ import main
from llmproxy_operator.errors import RefusedError
from llmproxy_operator.event_recorder import Announcer
from llmproxy_operator.health import Health, serve
from llmproxy_operator.logs import JsonLines
from llmproxy_operator.manifest import Ref
from llmproxy_operator.metrics import Metrics
from llmproxy_operator.ownership import Standing, standing
from llmproxy_operator.redact import scrub
from llmproxy_operator.watch.event_filter import Doorbell
from llmproxy_operator.workqueue import Key

Manifest = dict[str, Any]
KEY = Key("n", "p")


def a_raw_proxy(uid: str = "u", **metadata: Any) -> Manifest:
    deployments = [{"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1"}]
    return {
        "apiVersion": "llmproxy.dev/v1alpha1",
        "kind": "LLMProxy",
        "metadata": {"name": "p", "namespace": "n", "uid": uid, "generation": 1, "resourceVersion": "1", **metadata},
        "spec": {"models": [{"name": "echo", "deployments": deployments}]},
    }


def a_child(uid: str, owner: str = "p", *, controller: bool = True, **metadata: Any) -> Manifest:
    reference = {"apiVersion": "llmproxy.dev/v1alpha1", "kind": "LLMProxy", "name": owner, "uid": uid}
    owners = [{**reference, "controller": controller}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "ownerReferences": owners, **metadata}}


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        pytest.param(None, Standing.ABSENT, id="nothing there"),
        pytest.param(a_child("u"), Standing.OURS, id="ours"),
        pytest.param(a_child("u", deletionTimestamp="x"), Standing.LEAVING, id="ours, being deleted"),
        pytest.param(a_child("older"), Standing.LEAVING, id="of the one before of this name"),
        pytest.param(a_child("older", "q"), Standing.FOREIGN, id="of another proxy"),
        pytest.param(a_child("u", controller=False), Standing.FOREIGN, id="not controlled by us"),
        pytest.param({"kind": "Service", "metadata": {"name": "p"}}, Standing.FOREIGN, id="of nobody"),
        pytest.param(
            {"kind": "Service", "metadata": {"name": "p", "labels": {"llmproxy.dev/name": "p"}}},
            Standing.FOREIGN,
            id="with our labels only",
        ),
    ],
)
def test_whose_an_object_is(live: Manifest | None, expected: Standing) -> None:
    proxy: LLMProxy = parse(a_raw_proxy())

    assert standing(live, proxy) is expected


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("api_key=planted-0815 was refused", "planted-0815"),
        ('{"token": "planted-0815"}', "planted-0815"),
        ("key sk-proj-abcdefghijklmnop1234 is wrong", "sk-proj-abcdefghijklmnop1234"),
        ("redis://user:planted@host:6379", "planted"),
        ("it was 0815-own-content", "0815-own-content"),
    ],
)
def test_what_looks_like_a_key_is_not_shown(text: str, hidden: str) -> None:
    assert hidden not in scrub(text, ["0815-own-content"])


def test_plain_words_stay_and_the_end_of_long_ones() -> None:
    assert scrub("field models[0].name: is required\n\n") == "field models[0].name: is required"
    assert scrub("a\n" * 2000 + "the last line").endswith("the last line")
    assert len(scrub("x" * 10_000)) < 700


class Woken(list[Key]):
    """Keys in the order they were woken."""


def test_events_wake_their_proxy_but_the_echo_of_our_own_status_does_not() -> None:
    woken = Woken()
    bell = Doorbell(woken.append)
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
    bell = Doorbell(woken.append)
    written = {"observedGeneration": 1}
    bell.expect(KEY, written)
    bell.proxy(None, {**a_raw_proxy(), "status": written})

    bell.proxy("MODIFIED", {**a_raw_proxy(), "status": written, **change})

    assert woken == [KEY, KEY]


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
    announcer = Announcer(cluster, instance="pod", now=clock)
    ready = a_status("Ready", "AllReplicasReady")

    for nth in range(20):
        await announcer.announce(a_raw_proxy(), ready, crashing(nth))
        await announcer.announce(a_raw_proxy(), crashing(nth), crashing(nth + 1))
        await announcer.announce(a_raw_proxy(), crashing(nth + 1), ready)
    assert sorted(events(cluster)) == [("Normal", "AllReplicasReady", 1), ("Warning", "CrashLoop", 1)]
    assert cluster.writes.total() == 2
    assert said(cluster, "CrashLoop") == "code 2: 10:00:00 no"

    clock.at += timedelta(minutes=2)
    await announcer.announce(a_raw_proxy(), ready, crashing(7))
    assert ("Warning", "CrashLoop", 21) in events(cluster)
    assert said(cluster, "CrashLoop") == "code 2: 10:00:07 no"


async def test_another_proxy_of_the_same_name_has_events_of_its_own() -> None:
    cluster = FakeCluster()
    announcer = Announcer(cluster, instance="pod", now=Clock())

    for raw in (a_raw_proxy(), a_raw_proxy("another")):
        await announcer.announce(raw, a_status("Ready", "AllReplicasReady"), crashing(1))

    assert events(cluster) == [("Warning", "CrashLoop", 1)] * 2


async def test_an_event_whose_time_is_over_is_made_anew() -> None:
    class Forgetting(FakeCluster):
        async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
            if target not in self.objects:
                raise RefusedError("not found", status=404)
            return await super().merge(target, change)

    cluster, clock = Forgetting(), Clock()
    announcer = Announcer(cluster, instance="pod", now=clock)
    ready = a_status("Ready", "AllReplicasReady")
    await announcer.announce(a_raw_proxy(), ready, crashing(1))
    [event] = cluster.objects
    cluster.remove(event)

    clock.at += timedelta(hours=2)
    await announcer.announce(a_raw_proxy(), ready, crashing(2))

    assert events(cluster) == [("Warning", "CrashLoop", 1)]
    assert said(cluster, "CrashLoop") == "code 2: 10:00:02 no"


async def test_what_a_status_of_before_said_already_is_not_announced() -> None:
    cluster = FakeCluster()
    stalled = a_status("Stalled", "CrashLoop")

    await Announcer(cluster, instance="pod", now=Clock()).announce(a_raw_proxy(), stalled, stalled)

    assert events(cluster) == []


async def test_that_a_new_proxy_is_being_made_is_not_announced_and_a_roll_of_one_that_ran_is() -> None:
    cluster = FakeCluster()
    announcer = Announcer(cluster, instance="pod", now=Clock())
    ready, rolling = a_status("Ready", "AllReplicasReady"), a_status("Reconciling", "RollingOut")

    await announcer.announce(a_raw_proxy(), {}, rolling)
    assert events(cluster) == []

    await announcer.announce(a_raw_proxy(), ready, rolling)
    assert events(cluster) == [("Normal", "RollingOut", 1)]


async def test_an_event_that_is_refused_is_no_error_of_the_pass(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(FakeCluster):
        async def create(self, manifest: Manifest) -> Manifest:
            raise RefusedError("no", status=403)

    announcer = Announcer(Refusing(), instance="pod", now=Clock())
    await announcer.announce(a_raw_proxy(), {}, a_status("Ready", "AllReplicasReady"))

    assert "event_not_written" in caplog.text


def test_a_log_line_is_an_event_with_fields() -> None:
    record = logging.LogRecord("llmproxy_operator.x", logging.WARNING, "", 0, "pass_failed", None, None)
    record.proxy = "n/p"

    line = json.loads(JsonLines().format(record))

    assert (line["level"], line["event"], line["proxy"]) == ("warning", "pass_failed", "n/p")


async def test_the_own_port_answers_for_health_readiness_and_metrics() -> None:
    waits_s = 0.0
    metrics = Metrics()
    health = Health(metrics, oldest_s=lambda: waits_s)
    metrics.wrote("PATCH", "Service")
    metrics.wrote("PUT", "Lease")
    metrics.passed(failed=True, took_s=0.1)
    async with serve(health, port=0, host="127.0.0.1") as port, aiohttp.ClientSession() as client:

        async def ask(path: str) -> tuple[int, str]:
            async with client.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        assert (await ask("/healthz"))[0] == 200
        assert (await ask("/readyz"))[0] == 503
        health.ready = True
        assert (await ask("/readyz"))[0] == 200
        waits_s = 1000.0
        assert await ask("/healthz") == (503, "a proxy has been waiting 1000 s for its pass\n")
        text = (await ask("/metrics"))[1]
    assert 'llmproxy_operator_writes_total{kind="Service",verb="patch"} 1.0' in text
    assert 'kind="Lease"' not in text
    assert 'llmproxy_operator_passes_total{result="failed"} 1.0' in text
    assert all(
        line.split("{")[0].startswith(("llmproxy_operator_", "process_"))
        for line in text.splitlines()
        if line[0] != "#"
    )


def test_help_teaches_and_a_missing_image_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPERATOR_PROXY_IMAGE", raising=False)

    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("--namespace", "--proxy-image", "--no-leader-elect", "--health-port"))
    assert main([]) == 2
    assert "OPERATOR_PROXY_IMAGE is not set" in capsys.readouterr().err
    assert main(["--proxy-image", "x", "--health-port", "0"]) == 2
