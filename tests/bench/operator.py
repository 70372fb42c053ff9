"""The operator at size, on the real API server: thousands of LLMProxies from empty, edits among them, a second run.

In the end the same objects are written without an operator, beside the others: what the cluster itself needs for them.

No pod starts: the nodes take none while it runs. Floors, and what is left out, are told in docs/performance.md.
Ends with 1 when a floor is not met.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from bench.bare import write_all
from bench.machine import cpu_s
from cluster import processes
from cluster.places import Places
from e2e.kube import Kube
from e2e.proxies import an_llmproxy
from llmproxy_api import API_VERSION, KIND
from llmproxy_operator.cluster import ApiServer, connect
from llmproxy_operator.errors import ConflictError, UnavailableError
from llmproxy_operator.manifest import Manifest, Ref
from llmproxy_operator.render.deployment import PROGRESS_DEADLINE_S
from procs import ROOT, Process, free_port, running

CRD = ROOT / "crds/llmproxies.llmproxy.dev.yaml"
OURS = {"app.kubernetes.io/managed-by": "llmproxy-operator"}
CHILDREN = (("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ConfigMap"), ("v1", "Secret"))
FROM_EMPTY_S, EDIT_P99_S, SECOND_PASS_WRITES = 120.0, 1.0, 0
AT_ONCE = 16
LIMIT_S = 2400.0
IMAGE = "localhost/llmproxy-of-tests:1"
PARTS = {
    "kube-apiserver": "API server",
    "server": "etcd",
    "kube-controller-manager": "controller manager",
    "kube-scheduler": "scheduler",
}
"""Programs of the node that is built here, by their names."""


class Rig:
    """A namespace of the cluster and the operator that looks after it."""

    def __init__(self, api: ApiServer, namespace: str, count: int) -> None:
        self.api, self.namespace, self.count = api, namespace, count

    async def proxies(self) -> tuple[Manifest, ...]:
        """Return all LLMProxies."""
        return await self.api.list(API_VERSION, KIND, self.namespace, {})

    async def create(self) -> None:
        """Create them all, several at once."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            item = an_llmproxy(f"proxy-{number:04}")
            item["metadata"]["namespace"] = self.namespace
            async with gate:
                while True:
                    try:
                        await self.api.create(item)
                    except ConflictError:
                        return  # created, and only the answer was lost
                    except UnavailableError:
                        await asyncio.sleep(0.2)
                    else:
                        return

        await asyncio.gather(*(one(number) for number in range(self.count)))

    async def edit(self, number: int) -> float:
        """Edit a limit; return after how many seconds everything of the edit was applied and its status written."""
        target = Ref(API_VERSION, KIND, self.namespace, f"proxy-{number:04}")
        change = {"spec": {"rateLimits": {"rpm": random.randint(1, 1_000_000)}}}
        generation = (await self.api.merge(target, change))["metadata"]["generation"]
        began_s = time.monotonic()
        while time.monotonic() - began_s < 60:
            live = await self.api.get(target)
            if live is not None and (live.get("status") or {}).get("observedGeneration") == generation:
                return time.monotonic() - began_s
            await asyncio.sleep(0.02)
        raise AssertionError(f"{target}: the edit was not seen in a minute")

    async def versions(self) -> dict[str, str]:
        """Return the resource version of every proxy and child; of a Deployment its generation."""
        found = list(await self.proxies())
        for child in CHILDREN:
            found += await self.api.list(*child, self.namespace, OURS)
        return {
            f"{item['kind']}/{item['metadata']['name']}": str(
                item["metadata"]["generation" if item["kind"] == "Deployment" else "resourceVersion"]
            )
            for item in found
        }


class Counted:
    """The operator's own counters, and what the kernel counts for it."""

    def __init__(self, process: Process, port: int) -> None:
        self._process, self._port = process, port

    def samples(self, name: str) -> dict[str, float]:
        """Return the samples of a metric by their labels."""
        text = httpx2.get(f"http://127.0.0.1:{self._port}/metrics", timeout=60).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name)]
        return {labels.removeprefix(name): float(value) for labels, value in lines}

    def total(self, name: str) -> float:
        """Return their sum."""
        return sum(self.samples(name).values())

    def memory_mb(self) -> float:
        """Return the most memory it ever held."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def used_s(self) -> dict[str, float]:
        """Return the seconds of CPU that it used, and each part of the cluster if that is the node built here."""
        return {"operator": cpu_s([self._process.pid]), **used_by_node()}


def used_by_node() -> dict[str, float]:
    """Return the seconds of CPU that each part of the cluster used, if it is the node built here."""
    parts = processes.of_node(Places.from_environment().node)
    named = {PARTS.get(part.command.split(" ")[0].rsplit("/", 1)[-1]): part.pid for part in parts}
    return {name: cpu_s([pid]) for name, pid in sorted(named.items(), key=str) if name is not None}


@contextmanager
def operator(namespace: str) -> Iterator[Counted]:
    """Run the operator for one namespace."""
    port = free_port()
    environment = {
        "KUBERNETES_SERVICE_HOST": "",
        "OPERATOR_NAMESPACE": namespace,
        "OPERATOR_PROXY_IMAGE": IMAGE,
        "OPERATOR_LOG_LEVEL": "WARNING",
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'proxy_image'}",
    }
    command = ("llmproxy_operator.__main__", "--namespace", namespace, "--health-port", str(port), "--no-leader-elect")
    with running(*command, env=environment, port=port) as process:
        yield Counted(process, port)


def say(text: str) -> None:
    """Print a line at once."""
    print(f"  {text}", flush=True)


async def from_empty(rig: Rig) -> float:
    """Create all; return after how many seconds each had every child and a status about it."""
    began_s = time.monotonic()
    creating = asyncio.create_task(rig.create())
    while (took_s := time.monotonic() - began_s) < LIMIT_S:
        reported = [item for item in await rig.proxies() if _reported(item)]
        say(f"{took_s:5.0f} s: {len(reported):,} of {rig.count:,} applied and reported")
        if len(reported) == rig.count:
            await creating
            return time.monotonic() - began_s
        # A list of all is work for the API server too: it may take a twentieth of the time.
        await asyncio.sleep(max(2.0, 20 * (time.monotonic() - began_s - took_s)))
    raise AssertionError(f"not done in {LIMIT_S:.0f} s")


def _reported(item: Manifest) -> bool:
    """Whether its status tells of the pods, which comes after all children were applied."""
    ready = next((c for c in (item.get("status") or {}).get("conditions", ()) if c["type"] == "Ready"), None)
    return ready is not None and ready["reason"] != "Created"


async def at_rest(counted: Counted, quiet_s: float = 8.0) -> None:
    """Wait until the operator has written nothing for some seconds and no proxy waited for its turn.

    The count of reconciles is no measure: a resync of this many proxies is some reconcile every second.
    """
    began_s = time.monotonic()
    last, since_s = -1.0, began_s
    while time.monotonic() - since_s < quiet_s:
        assert time.monotonic() - began_s < LIMIT_S, "it does not come to rest"
        await asyncio.sleep(1)
        writes = counted.total("llmproxy_operator_writes_total")
        if writes != last or counted.total("llmproxy_operator_workqueue_depth") > 0:
            last, since_s = writes, time.monotonic()


async def edits(rig: Rig, count: int) -> list[float]:
    """Edit so many proxies, one after another; return the seconds of each in order."""
    took_s = []
    for number in random.sample(range(rig.count), count):
        took_s.append(await rig.edit(number))
        await asyncio.sleep(0.1)
    return sorted(took_s)


Row = tuple[str, str, str, bool | None]
"""What was measured, its value, its floor, and whether that is met."""


async def measure(rig: Rig, edited: int) -> list[Row]:
    """Do all that the operator is measured by; return the table."""
    with operator(rig.namespace) as counted:
        idle_s = counted.used_s()
        empty_s = await from_empty(rig)
        used_s = {name: used - idle_s.get(name, 0.0) for name, used in counted.used_s().items()}
        cost = ", ".join(f"{name} {spent / rig.count * 1000:.0f}" for name, spent in used_s.items())
        say(f"{empty_s:.0f} s from empty; CPU a proxy in ms: {cost}")
        await at_rest(counted)
        writes = counted.samples("llmproxy_operator_writes_total")
        used = (counted.total("llmproxy_operator_reconciles_total"), counted.used_s()["operator"], counted.memory_mb())
        say(
            f"at rest after {used[0]:.0f} reconciles, {sum(writes.values()):.0f} writes; now {edited} edits, one by one"
        )
        took_s = await edits(rig, edited)
        say(f"edits took {', '.join(f'{took:.2f}' for took in took_s)} s; now until their pods are overdue")
        # Pods that no node takes are overdue after a while, which the status says: not in the midst of the second run.
        await asyncio.sleep(PROGRESS_DEADLINE_S + 5)
        await at_rest(counted)
    before = await rig.versions()
    say(f"{len(before):,} objects; a new operator looks at all of them")
    began_s = time.monotonic()
    with operator(rig.namespace) as counted:
        while counted.total("llmproxy_operator_reconciles_total") < rig.count:
            assert time.monotonic() - began_s < LIMIT_S
            await asyncio.sleep(0.5)
        second_s = time.monotonic() - began_s
        await at_rest(counted)
        second_writes = int(counted.total("llmproxy_operator_writes_total"))
        again_mb = counted.memory_mb()
    after = await rig.versions()
    changed = sum(before.get(name) != after.get(name) for name in {*before, *after})
    a_proxy = {"- " + name: spent / rig.count * 1000 for name, spent in used_s.items()}
    p99_s = took_s[min(len(took_s) - 1, int(len(took_s) * 0.99))]
    return [
        (
            f"{rig.count:,} LLMProxies from empty",
            f"{empty_s:.0f} s",
            f"<= {FROM_EMPTY_S:.0f} s",
            empty_s <= FROM_EMPTY_S,
        ),
        (f"one edit among them, p50 of {edited}", f"{took_s[len(took_s) // 2]:.2f} s", "", None),
        (f"one edit among them, p99 of {edited}", f"{p99_s:.2f} s", f"<= {EDIT_P99_S:.0f} s", p99_s <= EDIT_P99_S),
        ("second run: writes", str(second_writes), "0", second_writes == SECOND_PASS_WRITES),
        ("second run: objects that changed", str(changed), "0", changed == 0),
        ("second run: start to last proxy", f"{second_s:.0f} s", "", None),
        ("from empty: reconciles a proxy", f"{used[0] / rig.count:.1f}", "", None),
        ("from empty: CPU a proxy until the last status", f"{sum(a_proxy.values()):.0f} ms", "", None),
        *((name, f"{spent_ms:.0f} ms", "", None) for name, spent_ms in a_proxy.items()),
        ("from empty: CPU of the operator until at rest", f"{used[1] / rig.count * 1000:.0f} ms a proxy", "", None),
        ("from empty: most memory of the operator", f"{used[2]:.0f} MB", "", None),
        ("second run: most memory of the operator", f"{again_mb:.0f} MB", "", None),
        ("from empty: writes a proxy", f"{sum(writes.values()) / rig.count:.1f}", "", None),
        *((f"- {labels}", f"{count / rig.count:.2f}", "", None) for labels, count in sorted(writes.items())),
    ]


def table(rows: list[Row]) -> str:
    """Return Markdown."""
    words = {True: "PASS", False: "FAIL", None: ""}
    lines = ["|  | measured | floor |  |", "|---|--:|--:|---|"]
    return "\n".join([*lines, *(f"| {what} | {value} | {floor} | {words[met]} |" for what, value, floor, met in rows)])


async def bare(api: ApiServer, namespace: str, count: int) -> list[Row]:
    """Have the same objects written without an operator; return the rows."""
    say(f"the same objects of {count:,} proxies, written by a client that does nothing else")
    idle_s, client_s = used_by_node(), time.process_time()
    took_s = await write_all(api, namespace, count, image=IMAGE, at_once=AT_ONCE)
    used_s = {"client": time.process_time() - client_s}
    used_s |= {name: used - idle_s[name] for name, used in used_by_node().items()}
    return [
        ("without an operator: the same objects", f"{took_s:.0f} s", "", None),
        ("without an operator: CPU a proxy", f"{sum(used_s.values()) / count * 1000:.0f} ms", "", None),
        *((f"- {name}", f"{spent / count * 1000:.0f} ms", "", None) for name, spent in used_s.items()),
    ]


def as_service_account(namespaces: tuple[str, ...]) -> dict[str, Any]:
    """Return a kubeconfig of a service account that may do all there, as operators have one.

    The API server remembers tokens; a client certificate it verifies anew with every request.
    """
    kube = Kube(namespaces[0])
    kube.run("create", "serviceaccount", "bench")
    for name in namespaces:
        who = f"--serviceaccount={namespaces[0]}:bench"
        Kube(name).run("create", "rolebinding", "bench", "--clusterrole=cluster-admin", who)
    config: dict[str, Any] = json.loads(kube.run("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": kube.run("create", "token", "bench", "--duration=24h").strip()}
    return config


@contextmanager
def a_place() -> Iterator[tuple[str, str]]:
    """Make two namespaces, one for the operator, and let no node take pods meanwhile."""
    kube = Kube("default")
    kube.run("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    kube.run("wait", "--for=condition=Established", "crd/llmproxies.llmproxy.dev", "--timeout=30s")
    namespace = f"bench-{uuid.uuid4().hex[:6]}"
    both = (namespace, f"{namespace}-bare")
    for name in both:
        kube.run("create", "namespace", name)
    nodes = [node["metadata"]["name"] for node in kube.list("nodes") if not node["spec"].get("unschedulable")]
    kube.run("cordon", *nodes)
    try:
        yield both
    finally:
        kube.run("delete", "namespace", *both, "--wait=false")
        say(f"namespaces {', '.join(both)} are being deleted, which takes minutes; `make cluster-down` is quicker")
        kube.run("uncordon", *nodes)


async def run(count: int, edited: int) -> list[Row]:
    """Measure in namespaces of its own."""
    with a_place() as (namespace, beside), tempfile.NamedTemporaryFile("w", suffix=".json") as kubeconfig:
        json.dump(as_service_account((namespace, beside)), kubeconfig)
        kubeconfig.flush()
        os.environ["KUBECONFIG"] = kubeconfig.name  # of this process and the operators that it starts
        async with connect(lambda _verb, _kind: None) as (api, _):
            return [*await measure(Rig(api, namespace, count), edited), *await bare(api, beside, count)]


def main() -> int:
    """Print the table; return 1 if a floor is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--proxies", type=int, default=2000)
    parser.add_argument("--edits", type=int, default=50)
    given: Any = parser.parse_args()
    load = os.getloadavg()[0]
    rows = asyncio.run(run(given.proxies, given.edits))
    loads = f"load of the machine before: {load:.1f}, after: {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores"
    print(f"\n{table(rows)}\n\n{loads}")
    return 1 if any(met is False for *_, met in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
