"""Limits over rolls and kills: real processes, each asking for three times what there is.

Every bound is a formula of L, and of what a process did that is killed; it is printed and asserted for every window.
"""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.limits.pods import Pod, Pods
from llmproxy.gateway.limits.peers.leader import REPLICATION_S
from procs import free_port
from waiting import until
from windows import worst_window

UNTOLD_S = REPLICATION_S + 0.1
"""What an authority admitted so shortly before its death it may not have told: the push's period, and transit and
scheduling on a machine that is busy with this test."""


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with ExitStack() as stack:
        yield Pods(tmp_path, stack)


def test_a_roll_under_load_keeps_every_limit_and_every_request_is_answered(pods: Pods) -> None:
    old = pods.start()
    old.wait_ready()
    old.load_for(1.5)
    new = pods.start(old)
    new.wait_ready()
    old.process.wait_for("mode leader")
    handed_over = time.monotonic()
    new.load_for(1.5)
    assert old.process.end() == 0
    new.load_for(1.2)
    assert new.process.end() == 0

    pods.check("roll", rps=60, rpm=400, formula="L")
    assert pods.parallel(time.monotonic()) <= 20, "maxParallel over both"
    assert max(old.waits() + new.waits()) < 1.0
    assert any(at > handed_over for at, _ in old.admitted()), "the old one is granted a part by its successor"
    assert any(at > handed_over for at, _ in new.admitted())


def test_when_the_old_pod_is_killed_its_successor_knows_all_that_it_admitted(pods: Pods) -> None:
    old = pods.start()
    old.wait_ready()
    old.load_for(1)
    new = pods.start(old)
    new.wait_ready()
    new.load_for(0.7)
    old.process.signal(signal.SIGKILL)
    killed = time.monotonic()
    new.process.wait_for("peers 0")
    new.load_for(1.5)
    new.process.end()

    pods.check("predecessor killed", rps=60, rpm=400, formula="L")
    for pod in pods.all:
        assert pod.admitted()
    assert pods.parallel(killed) <= 20


def test_when_the_successor_is_killed_the_old_pod_goes_on_with_what_it_was_told(pods: Pods) -> None:
    old = pods.start()
    old.wait_ready()
    old.load_for(0.7)
    new = pods.start(old)
    new.wait_ready()
    new.load_for(1)
    new.process.signal(signal.SIGKILL)
    killed = time.monotonic()
    old.process.wait_for("mode local peers 0", times=2)
    old.load_for(1.5)
    old.process.end()

    untold = sum(1 for at, _ in new.admitted() if at > killed - UNTOLD_S)
    pods.check(
        "successor killed",
        rps=60 + untold,
        rpm=400 + untold,
        formula=f"L + what it admitted in its last {UNTOLD_S:.2f} s = L + {untold}",
    )
    assert max(old.waits()) < 1.0
    assert any(at > killed for at, _ in old.admitted())


def test_while_the_successor_stands_still_nobody_waits_longer_than_a_second_and_then_they_join(pods: Pods) -> None:
    limits = {"rps": 60, "rpm": 300}
    old = pods.start(limits=limits)
    old.wait_ready()
    old.load_for(0.5)
    new = pods.start(old, limits=limits)
    new.wait_ready()
    new.load_for(0.5)
    alone = old.process.output.count("switched to itself")
    new.process.signal(signal.SIGSTOP)
    old.process.wait_for("switched to itself", times=alone + 1)
    old.load_for(0.5)
    together = old.process.output.count("switched to others")
    new.process.signal(signal.SIGCONT)
    old.process.wait_for("switched to others", times=together + 1)
    time.sleep(0.2)
    joined = time.monotonic()
    new.load_for(2)
    old.process.end()
    new.process.end()

    pods.check("successor stopped", rps=120, rpm=600, formula="2 L while apart")
    late = [entry for entry in pods.admitted() if entry[0] > joined]
    before_and_after = [w for w in pods.admitted() if w[0] > joined - 60]
    print(f"after they joined: {len(late)} admitted, {len(before_and_after)} in the minute")
    assert worst_window(late, 1.0) <= 60
    assert max(old.waits()) < 1.5, "the answer's second, and scheduling"


def test_three_generations_count_as_one(pods: Pods) -> None:
    limits = {"rps": 60, "rpm": 400}
    first = pods.start(limits=limits)
    first.wait_ready()
    first.load_for(0.6)
    second = pods.start(first, limits=limits)
    second.wait_ready()
    second.load_for(0.6)
    third = pods.start(second, limits=limits)
    third.wait_ready()
    first.process.wait_for("leader pod2")
    second.process.wait_for("leader pod2")
    third.load_for(0.8)
    third.process.signal(signal.SIGKILL)
    killed = time.monotonic()
    first.process.wait_for("leader pod1", times=2)
    second.load_for(0.8)
    second.process.end()
    first.process.wait_for("leader pod0", times=2)
    first.load_for(1.2)
    first.process.end()

    untold = sum(1 for at, _ in third.admitted() if at > killed - UNTOLD_S)
    pods.check("three generations", rps=60 + untold, rpm=400 + untold, formula=f"L + untold {untold}")
    assert max(first.waits() + second.waits()) < 1.5


def test_two_pods_that_start_at_one_time_settle_on_one_authority(pods: Pods) -> None:
    old = pods.start()
    old.wait_ready()
    old.load_for(0.5)
    port = free_port()
    one = pods.start(old, port=port)
    two = pods.start(old, one)
    one.wait_ready()
    two.wait_ready()
    one.load_for(1.5)
    leaders = {line.split("leader ")[1].split()[0] for line in map(_last_line, pods.all)}
    modes = sorted(line.split("mode ")[1].split()[0] for line in map(_last_line, pods.all))
    for pod in pods.all:
        pod.process.end()

    assert len(leaders) == 1
    assert modes == ["leader", "leader", "local"]
    pods.check("two at one time", rps=60, rpm=400, formula="L")


def test_a_new_limit_holds_for_both_from_the_hand_over_on(pods: Pods) -> None:
    old = pods.start(limits={"rps": 60})
    old.wait_ready()
    old.load_for(1.2)
    new = pods.start(old, limits={"rps": 20})
    new.wait_ready()
    old.process.wait_for("mode leader")
    handed_over = time.monotonic()
    new.load_for(2.5)
    old.process.end()
    new.process.end()

    admitted = pods.admitted()
    print(f"new limit: worst second {worst_window(admitted, 1.0)} <= 60 [max(old, new)]")
    assert worst_window(admitted, 1.0) <= 60
    assert worst_window([entry for entry in admitted if entry[0] > handed_over], 1.0) <= 20
    assert any(at > handed_over + 0.5 for at, _ in admitted)


def test_a_pod_with_another_token_is_refused_and_takes_nothing_over(pods: Pods) -> None:
    old = pods.start()
    old.wait_ready()
    stranger = pods.start(old, token="guessed", load=0)
    stranger.wait_ready()
    old.process.wait_for("peer_refused")
    old.load_for(0.5)
    old.process.end()
    stranger.process.end()

    assert "peer_refused" in old.process.output
    assert "mode leader" not in old.process.output
    assert "peers 1" not in stranger.process.output
    pods.check("wrong token", rps=60, rpm=400, formula="L")


def test_nothing_that_is_sent_to_the_port_stops_a_pod(pods: Pods) -> None:
    old = pods.start()
    old.wait_ready()
    for junk in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n" * 20,
        b"llmproxy-peers/1" + bytes(16),
        b"llmproxy-peers/1" + bytes(4000),
    ):
        with socket.create_connection(("127.0.0.1", old.port)) as connection:
            connection.sendall(junk)
    kept = [socket.create_connection(("127.0.0.1", old.port)) for _ in range(100)]
    new = pods.start(old)
    new.wait_ready()
    for connection in kept:
        connection.close()
    until(lambda: "leader pod1" in _last_line(old), "the new pod does not lead")

    old.process.end()
    new.process.end()
    assert "Traceback" not in old.process.output


def test_a_container_that_crashes_and_starts_again_does_not_admit_twice(pods: Pods, tmp_path: Path) -> None:
    limits = {"rps": 60, "rpm": 100}
    first = pods.start(limits=limits, snapshot=tmp_path / "limits", load=40)
    first.wait_ready()
    first.load_for(1.7)
    first.process.signal(signal.SIGKILL)
    killed = time.monotonic()
    again = pods.start(limits=limits, snapshot=tmp_path / "limits", port=free_port())
    again.wait_ready()
    again.load_for(2)
    again.process.end()

    unwritten = sum(1 for at, _ in first.admitted() if at > killed - 1.3)
    pods.check(
        "container restarted",
        rps=60,
        rpm=100 + unwritten,
        formula=f"L + what it admitted after the last write = L + {unwritten}; rps: L",
    )
    assert again.admitted()


def _last_line(pod: Pod) -> str:
    return [line for line in pod.process.output.splitlines() if " leader " in line][-1]
