"""Faults around the operator: a broken way to the API server, one that restarts, and leaders that die or sleep.

After each of them everything is as if nothing had been: every proxy has each child once, the last edit counts, no
token was made twice, and a new operator finds nothing to write.
"""

import itertools
import json
import os
import random
import signal
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import processes
from cluster.places import Places
from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import Operator, an_operator, settled
from integration.operator.front import Choose, Fault, Front, in_front
from integration.operator.test_operator import CHILDREN, MINE, versions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

COUNT = 6
NAMES = [f"p{number}" for number in range(COUNT)]
ONCE = {"Deployment": 1, "Service": 2, "Secret": 2}
TIMEOUT_S = 120.0
NOT_LED = "--no-leader-elect"
WRITTEN = "llmproxy_operator_writes_total"


@dataclass(frozen=True)
class Ledger:
    """Requests, and the tokens that were created for them."""

    kube: Kube
    names: tuple[str, ...] = tuple(NAMES)

    def ask(self, rpm: int) -> None:
        """Create all proxies with this limit, or edit them to it."""
        self.kube.apply(*[an_llmproxy(name, rateLimits={"rpm": rpm}) for name in self.names])

    def problems(self, rpm: int) -> list[str]:
        """Return what is not as it must be once the operator has nothing more to do."""
        children = [*self.kube.list(CHILDREN, MINE), *self.kube.list("controllerrevisions", MINE)]
        sets = self.kube.list("replicasets", MINE)
        proxies = {item["metadata"]["name"]: item for item in self.kube.list("llmproxies")}
        found = [f"{name} is not there" for name in self.names if name not in proxies]
        for name, proxy in proxies.items():
            mine = [item for item in children if item["metadata"]["ownerReferences"][0]["name"] == name]
            used = [item for item in sets if item["metadata"]["labels"]["llmproxy.dev/name"] == name]
            found += [f"{name}: {problem}" for problem in _problems(proxy, mine, used, rpm)]
        return found

    def tokens(self) -> dict[str, str]:
        """Return the uid and content of every Secret that the operator made."""
        secrets = self.kube.list("secrets", MINE)
        return {item["metadata"]["name"]: item["metadata"]["uid"] + json.dumps(item["data"]) for item in secrets}

    def settles(self, rpm: int) -> None:
        """Wait until all is as asked for; then a new operator must find nothing to write."""
        eventually(lambda: self.problems(rpm), lambda found: not found, TIMEOUT_S, f"all at {rpm}")

    def is_at_rest(self) -> None:
        """A new operator finds nothing to write.

        Pods go their own way meanwhile, as their image cannot be had: what a status tells of that is news, and another
        operator looks again. Children are never news.
        """
        for _ in range(5):
            with an_operator(self.kube.namespace, NOT_LED) as another:
                wanted = len(self.names)
                eventually(lambda: passes(another), lambda count: count >= wanted, TIMEOUT_S, "a pass over each")  # noqa: B023 - called at once
                settled(lambda: passes(another), timeout_s=TIMEOUT_S)
                told = sum(another.metric(f'{WRITTEN}{{kind="{kind}"') for kind in ("LLMProxy/status", "Event"))
                assert another.metric(WRITTEN) == told, "it wrote children"
            if not told:
                return
        raise AssertionError(f"the fifth operator still wrote {told:.0f} statuses and Events")


def passes(operator: Operator) -> float:
    return operator.metric("llmproxy_operator_reconciles_total")


def _problems(proxy: Object, children: list[Object], sets: list[Object], rpm: int) -> list[str]:
    status, generation = proxy.get("status") or {}, proxy["metadata"]["generation"]
    found = [] if status.get("observedGeneration") == generation else ["its status is about another generation"]
    kinds = [item["kind"] for item in children]
    found += [f"{kinds.count(kind)} of {kind}" for kind, count in ONCE.items() if kinds.count(kind) != count]
    if kinds.count("ControllerRevision") != 1:
        found.append(f"{kinds.count('ControllerRevision')} revisions")
    if any(item["metadata"]["ownerReferences"][0]["uid"] != proxy["metadata"]["uid"] for item in children):
        found.append("a child of another object")
    maps = {item["metadata"]["name"]: item for item in children if item["kind"] == "ConfigMap"}
    deployments = [item for item in children if item["kind"] == "Deployment"]
    if len(deployments) != 1:
        return found
    mounted = _documents(deployments[0])
    if [json.loads(maps[name]["data"]["config.json"])["rate_limits"]["rpm"] for name in mounted & set(maps)] != [rpm]:
        found.append(f"the pods are not told {rpm}")
    used = mounted.union(*(_documents(item) for item in sets))
    spare = {name for name in maps if "-config-" in name} - used
    return found + ([f"{spare} are needed by nobody"] if spare else [])


def _documents(item: Object) -> set[str]:
    volumes = item["spec"]["template"]["spec"]["volumes"]
    return {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}


@pytest.fixture
def behind(team: Kube, tmp_path: Path) -> "Behind":
    return Behind(team, tmp_path)


@dataclass(frozen=True)
class Behind:
    """Runs operators behind a proxy."""

    kube: Kube
    folder: Path

    def environment(self, front: Front) -> dict[str, str]:
        """Return the environment of an operator that reaches the API server through *front* alone."""
        return {"KUBECONFIG": front.kubeconfig(self.folder / "kubeconfig")}


def _sometimes(seed: int, share: float, fault: Fault, *methods: str) -> Choose:
    """Have *fault* come over a share of the requests with these methods; watches and lists go through."""
    dice = random.Random(seed)

    def choose(method: str, path: str) -> Fault | None:
        about_one = "labelSelector" not in path and "/namespaces/" in path
        return fault if about_one and method in methods and dice.random() < share else None

    return choose


WRITES = ("PATCH", "POST", "DELETE", "PUT")
STORMS: dict[str, tuple[Choose, str]] = {
    "too many requests": (_sometimes(1, 0.3, Fault(status=429, again_s=1), "GET", *WRITES), "429"),
    "conflicts": (_sometimes(2, 0.3, Fault(status=409), "PATCH", "PUT"), "409"),
    "errors": (_sometimes(3, 0.3, Fault(status=503), "GET", *WRITES), "503"),
    "answers that do not come back": (_sometimes(4, 0.2, Fault(lose=True), *WRITES), "lose"),
    "slow writes": (_sometimes(5, 0.5, Fault(delay_s=1.5), *WRITES), "delay"),
    "watches that break": (lambda _method, _path: None, "cut"),
}


@pytest.mark.long
@pytest.mark.parametrize("storm", STORMS)
def test_all_is_right_after_a_storm(behind: Behind, storm: str) -> None:
    choose, kind = STORMS[storm]
    _is_right_after(behind, Ledger(behind.kube), choose, kind, rounds=3)


def test_all_is_right_after_a_short_storm_of_conflicts_and_too_many_requests(behind: Behind) -> None:
    busy, stale = Fault(status=429, again_s=1), Fault(status=409)
    writes = itertools.count()

    def choose(method: str, path: str) -> Fault | None:
        if method not in WRITES or "/namespaces/" not in path:
            return None
        # Not by chance: a short storm must have enough of both.
        number = next(writes)
        return busy if number % 4 == 0 else stale if number % 2 and method == "PATCH" else None

    _is_right_after(behind, Ledger(behind.kube, tuple(NAMES[:2])), choose, "429", "409")


def _is_right_after(behind: Behind, ledger: Ledger, choose: Choose, *kinds: str, rounds: int = 2) -> None:
    with in_front(behind.kube) as front:
        front.faults = choose
        with an_operator(behind.kube.namespace, NOT_LED, env=behind.environment(front)) as operator:
            for rpm in range(1, rounds + 1):
                ledger.ask(rpm)
                _cut_for(front, 6.0 if "cut" in kinds else 0.0)
                time.sleep(2)
            made = ledger.tokens()
            front.faults = lambda _method, _path: None
            ledger.settles(rounds)
            settled(lambda: passes(operator), timeout_s=TIMEOUT_S)
        assert min(front.done[kind] for kind in kinds) >= 3, front.done
    now = ledger.tokens()
    assert {name: now[name] for name in made} == made
    ledger.is_at_rest()


def _cut_for(front: Front, seconds: float) -> None:
    """Cut every watch, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        front.cut()
        time.sleep(0.5)


def test_what_is_deleted_while_no_watch_is_open_is_made_again(behind: Behind) -> None:
    """Only a list can tell of it, and only if the operator takes it for all there is."""
    ledger = Ledger(behind.kube, ("gap",))
    with (
        in_front(behind.kube) as front,
        an_operator(behind.kube.namespace, NOT_LED, env=behind.environment(front)) as operator,
    ):
        ledger.ask(1)
        ledger.settles(1)
        settled(lambda: passes(operator), timeout_s=TIMEOUT_S)
        gone = Fault(status=410)
        front.faults = lambda _method, path: gone if "watch=true" in path else None
        front.cut()
        eventually(lambda: front.done["410"], lambda count: count >= 5, 30, "watches refused")

        behind.kube.run("delete", "service/gap", "configmap/gap-endpoint")

        ledger.settles(1)
        eventually(lambda: len(behind.kube.list("services", MINE)), lambda count: count == 2, 30, "both Services")


def test_nothing_is_done_before_all_kinds_are_known(behind: Behind) -> None:
    """The revisions of the pods would count as absent, and all pods would roll."""
    known = threading.Event()
    hang = Fault(until=known)
    with in_front(behind.kube) as front:
        front.faults = lambda _method, path: hang if "/controllerrevisions?" in path and "watch" not in path else None
        with an_operator(behind.kube.namespace, NOT_LED, env=behind.environment(front)) as operator:
            behind.kube.apply(an_llmproxy("early"))
            eventually(lambda: front.held, lambda count: count >= 1, 60, "the list hangs")
            with pytest.raises(urllib.error.HTTPError, match="503"):
                operator.get("/readyz")
            assert passes(operator) == 0
            assert behind.kube.list("deployments", MINE) == []

            known.set()
            eventually(
                lambda: behind.kube.list("deployments", MINE), lambda found: len(found) == 1, 60, "its Deployment"
            )


def test_a_write_that_keeps_failing_is_in_the_status_until_it_succeeds(behind: Behind) -> None:
    """As with an admission webhook that is down."""
    down = Fault(status=503)
    with in_front(behind.kube) as front:
        front.faults = lambda method, path: down if method == "PATCH" and "/deployments/" in path else None
        with an_operator(behind.kube.namespace, NOT_LED, env=behind.environment(front)):
            behind.kube.apply(an_llmproxy("webhooked"))
            waiting = eventually(
                lambda: behind.kube.condition("llmproxy", "webhooked", "Reconciling"),
                lambda c: c.get("reason") == "ApiServerUnavailable",
                60,
                "the API server's words",
            )
            assert "PATCH Deployment" in waiting["message"]
            events = behind.kube.list("events")
            assert ("Warning", "ApiServerUnavailable") in {(e["type"], e["reason"]) for e in events}

            front.faults = lambda _method, _path: None
            eventually(
                lambda: behind.kube.condition("llmproxy", "webhooked", "Stalled"),
                lambda c: c.get("reason") == "QuotaExceeded",
                90,
                "its pods are asked for",
            )


def test_a_proxy_that_always_fails_delays_no_other(behind: Behind) -> None:
    """Each reconcile of it hangs until its timeout, while those of the others are done."""
    others = Ledger(behind.kube, tuple(f"q{number}" for number in range(12)))
    held = threading.Event()
    hang = Fault(until=held)
    with in_front(behind.kube) as front:
        front.faults = lambda _method, path: hang if "/bad-" in path and "/services/" in path else None
        with an_operator(behind.kube.namespace, NOT_LED, env=behind.environment(front)):
            behind.kube.apply(an_llmproxy("bad-one"), an_llmproxy("bad-two"))
            eventually(lambda: front.held, lambda count: count >= 2, 30, "passes over both hang")

            others.ask(1)

            eventually(lambda: [p for p in others.problems(1) if not p.startswith("bad-")], lambda f: not f, 90, "all")
            assert front.done["hold"] > 0
            held.set()
            eventually(lambda: len(behind.kube.list("deployments", MINE)), lambda n: n == 14, TIMEOUT_S, "those too")


@pytest.mark.long
def test_one_that_is_refused_for_ever_is_tried_ever_more_rarely(behind: Behind) -> None:
    others = Ledger(behind.kube, tuple(f"q{number}" for number in range(50)))
    with in_front(behind.kube) as front:
        fails = Fault(status=500)
        front.faults = lambda method, path: fails if method == "PATCH" and "/bad" in path else None
        with an_operator(behind.kube.namespace, NOT_LED, env=behind.environment(front)) as operator:
            behind.kube.apply(an_llmproxy("bad"))
            eventually(lambda: front.done["500"], lambda count: count >= 3, 30, "it fails")
            others.ask(1)
            eventually(
                lambda: [p for p in others.problems(1) if not p.startswith("bad:")],
                lambda f: not f,
                TIMEOUT_S,
                "all",
            )
            # At most every half second at first, doubled each time: 12 tries are more than a quarter of an hour.
            failed = operator.metric('llmproxy_operator_reconciles_total{result="error"}')
            assert 3 <= failed <= 12


NodeProcess = Callable[[str], int]


@pytest.fixture
def node_process() -> NodeProcess:
    """Find a process of the node by its program; skip where the node was not built here."""
    places = Places.from_environment()

    def find(program: str) -> int:
        found = [part.pid for part in processes.of_node(places.node) if f"/{program} " in part.command]
        return found[0] if found else 0

    if os.environ.get("LLMPROXY_E2E_KUBECONFIG") != str(places.kubeconfig) or not find("kube-apiserver"):
        pytest.skip("the cluster is not the node built here, so its processes cannot be stopped")
    return find


@pytest.mark.long
@pytest.mark.xdist_group("alone")
def test_all_is_right_after_the_api_server_was_killed_in_between(team: Kube, node_process: NodeProcess) -> None:
    ledger = Ledger(team)

    def api_server_process() -> int:
        return node_process("kube-apiserver")

    with an_operator(team.namespace, NOT_LED) as operator:
        for rpm in (1, 2, 3):
            ledger.ask(rpm)
            time.sleep(0.5 * rpm)  # somewhere else in each round
            victim = api_server_process()
            os.kill(victim, signal.SIGKILL)
            eventually(api_server_process, lambda pid, old=victim: pid not in {0, old}, 60, "another process")  # type: ignore[misc]  # a default binds the loop's value
            eventually(lambda: team.run("get", "--raw", "/readyz", check=False), lambda said: said == "ok", 90, "ready")
        ledger.settles(3)
        settled(lambda: passes(operator), timeout_s=TIMEOUT_S)
        assert operator.process.popen.poll() is None or operator.process.popen.returncode == 1
    ledger.is_at_rest()


@contextmanager
def in_bursts(pid: int, *, stopped_s: float, between_s: float) -> Iterator[threading.Event]:
    """Stop a process again and again until the block ends; yield an event that is set while it is stopped."""
    stopped, over = threading.Event(), threading.Event()

    def stop_and_go() -> None:
        while not over.wait(between_s):
            os.kill(pid, signal.SIGSTOP)
            stopped.set()
            over.wait(stopped_s)
            stopped.clear()
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield stopped
    finally:
        over.set()
        thread.join()


@pytest.mark.long
@pytest.mark.xdist_group("alone")
def test_all_is_right_after_etcd_was_slow(team: Kube, node_process: NodeProcess) -> None:
    """Writes hang for seconds, some until the API server gives them up, and nobody knows whether they were done."""
    ledger, took_s = Ledger(team), list[float]()
    with an_operator(team.namespace, NOT_LED) as operator:
        with in_bursts(node_process("etcd"), stopped_s=4, between_s=1) as stopped:
            for rpm in (1, 2, 3):
                assert stopped.wait(30)
                began = time.monotonic()
                ledger.ask(rpm)
                took_s.append(time.monotonic() - began)
                time.sleep(5)
            made = ledger.tokens()
        assert min(took_s) > 2, "it was not slow"
        ledger.settles(3)
        settled(lambda: passes(operator), timeout_s=TIMEOUT_S)
        assert operator.process.popen.poll() is None
    now = ledger.tokens()
    assert {name: now[name] for name in made} == made
    ledger.is_at_rest()


@pytest.mark.long
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "sleeps"])
def test_all_is_right_after_the_leader_was_stopped_in_the_middle_of_its_reconciles(team: Kube, end: int) -> None:
    ledger = Ledger(team)
    with an_operator(team.namespace) as one, an_operator(team.namespace) as other:
        first, second = _by_rank(one, other)
        ledger.ask(1)
        deadline = time.monotonic() + 60
        while first.log_count("object_created") < 4 and time.monotonic() < deadline:
            time.sleep(0.002)
        first.process.signal(end)
        ledger.ask(2)

        second.process.wait_for("lease_acquired", 90)
        ledger.settles(2)
        if end == signal.SIGSTOP:
            before, written = versions(team), first.log_count("object_created") + first.log_count("object_updated")
            first.process.signal(signal.SIGCONT)
            assert first.process.wait(60) == 1  # it sees that it does not lead any more
            assert first.log_count("object_created") + first.log_count("object_updated") <= written + len(NAMES)
            settled(lambda: passes(second), timeout_s=TIMEOUT_S)
            assert _without_status(versions(team)) == _without_status(before)
        ledger.settles(2)
    ledger.is_at_rest()


def _by_rank(one: Operator, other: Operator) -> tuple[Operator, Operator]:
    """Return the leader and the one that waits."""
    eventually(lambda: one.log_count("lease_acquired") + other.log_count("lease_acquired"), bool, 60, "a leader")
    return (one, other) if one.log_count("lease_acquired") else (other, one)


def _without_status(found: dict[str, str]) -> dict[str, str]:
    """Return the versions of what only the operator changes."""
    return {name: version for name, version in found.items() if not name.startswith(("Deployment/", "LLMProxy/"))}
