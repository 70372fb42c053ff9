"""This project's gateway, with every feature on: limits of all kinds, metrics, records of calls handed to a shipper.

The shipper is a helper: it runs beside the gateway in a pod and has another core. What it costs is told, not added.
"""

import http.client
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass

import compile_llmproxy
from bench.peers.base import PATH, Place, Running, alone
from bench.shapes import MODEL
from llmproxy import contract
from procs import Process, ProcessError, free_port, running

HUGE = 1_000_000_000
"""Of every limit: each is counted for each request, none is reached."""
READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway and its shipper."""

    name: str
    title: str
    rollout: bool = True
    ack_wait_s: float = 0.0

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return "of this tree, " + ("compiled" if compile_llmproxy.folder() else "not compiled: `make compiled`")

    @contextmanager
    def run(self, place: Place) -> Iterator[Running]:
        config = place.folder / "config.json"
        config.write_text(self._document(place).to_json())
        common = ("--config", str(config), "--run-dir", str(place.folder))
        admin = free_port()
        with ExitStack() as stack:
            shipper = stack.enter_context(self._shipper(place, *common))
            listen = ("--host", "127.0.0.1", "--port", str(place.port))
            others = ("--admin-host", "127.0.0.1", "--admin-port", str(admin), "--peer-host", "127.0.0.1")
            began = time.monotonic()
            command = (
                sys.executable,
                "-m",
                "llmproxy.gateway",
                *common,
                *listen,
                *others,
                "--peer-port",
                str(free_port()),
            )
            env = {"PEER_TOKEN": "bench", "PYTHONPATH": str(compile_llmproxy.folder() or "")}
            process, _ = stack.enter_context(alone(place, *command, env=env))
            _wait_ready(process, admin)
            start_s = time.monotonic() - began
            path = f"/rollout/bench/attempt/bench{PATH}" if self.rollout else PATH
            unrecorded = (lambda: _unrecorded(_handed_over(admin))) if self.rollout else None
            found = Running(place.port, (process.pid,), start_s, path, helpers=(shipper.pid,), unrecorded=unrecorded)
            yield found
            found.notes.update(_handed_over(admin))

    def _shipper(self, place: Place, *common: str) -> AbstractContextManager[Process]:
        core = ("taskset", "-c", str(place.cores.rest), "nice", "-n", "10")
        command = (*core, sys.executable, "-m", "llmproxy.shipper", *common, "--spool-dir", str(place.folder / "spool"))
        return running(*command, socket_path=place.folder / "shipper.sock", env={"PYTHONPATH": ""})

    def _document(self, place: Place) -> contract.Document:
        limits = contract.Limits(rpm=HUGE, rps=HUGE, tpm=HUGE * 100, max_parallel=HUGE)
        deployment = contract.Deployment(id="bench/0", model=f"hosted_vllm/{MODEL}", api_base=f"{place.upstream}/v1")
        return contract.Document(
            proxy=contract.Proxy(name="bench", namespace="bench"),
            models=(contract.Model(name=MODEL, rate_limits=limits, deployments=(deployment,)),),
            rate_limits=limits,
            spans=contract.Spans(store=place.upstream, ack_wait_s=self.ack_wait_s),
            drain_timeout_s=1,
        )


def _wait_ready(process: Process, admin: int) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        with closing(http.client.HTTPConnection("127.0.0.1", admin, timeout=1)) as connection:
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == http.client.OK:
                    return
            except OSError:
                pass
        if time.monotonic() > deadline_s or process.popen.poll() is not None:
            raise ProcessError(f"the gateway was not ready within {READY_S:g} s:\n{process.output[-2000:]}")
        time.sleep(0.01)


def _handed_over(admin: int) -> dict[str, float]:
    """Return what became of the records of calls."""
    with closing(http.client.HTTPConnection("127.0.0.1", admin, timeout=5)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    rows = re.findall(r"^llmproxy_records_(\w+?)(?:_total)? ([0-9.e+]+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in rows}


def _unrecorded(handed_over: dict[str, float]) -> int:
    return int(handed_over["dropped"] + handed_over["rejected"])
