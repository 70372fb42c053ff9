"""A real Prometheus for tests: it scrapes what it is told, and answers queries. No service is started, none installed.

The program on the PATH is used, else that of Debian's package, unpacked into the cache; without either a test is
skipped. Prometheus 2 and 3 do.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "charts/llmproxy-operator/monitoring"
PACKAGE = "prometheus"
START_S = 60


def programs() -> Path:
    """Return the folder with `prometheus` and `promtool`; skip the test if there is none."""
    found = shutil.which("prometheus"), shutil.which("promtool")
    if all(found):
        return Path(str(found[0])).parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmproxy-tests/prometheus"
    if not (cache / "usr/bin/prometheus").exists():
        _unpack(cache)
    return cache / "usr/bin"


def _unpack(place: Path) -> None:
    """Unpack Debian's package at *place*; skip the test if that cannot be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        try:
            subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, capture_output=True, timeout=120)
            [package] = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, "x"], cwd=folder, check=True, capture_output=True, timeout=60)
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            pytest.skip(f"no prometheus here, and Debian's package {PACKAGE} cannot be fetched: {exc}")
        with contextlib.suppress(OSError):  # another test was quicker
            (Path(folder) / "x").rename(place)


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer; AssertionError with what it says if it is none."""
        try:
            url = f"{self._url}/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - on loopback
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            raise AssertionError(f"{path} {query}: {exc.read().decode()}") from exc

    def series(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds now."""
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def names(self) -> set[str]:
        """Return the name of every metric that it has ever seen."""
        return set(self.ask("label/__name__/values"))

    def wait_for(self, query: str, timeout_s: float = 60) -> None:
        """Wait until a query finds something."""
        deadline = time.monotonic() + timeout_s
        while not self.series(query):
            assert time.monotonic() < deadline, f"no series for {query} in {timeout_s:g} s"
            time.sleep(0.3)

    def labels_without_values(self, queries: Iterable[str]) -> list[str]:
        """Return what the queries group by and no series has: an aggregation answers all the same, in one heap."""
        asked = {
            (metric, label)
            for query in queries
            for labels, metric in re.findall(r"by \(([\w, ]+)\)\s*\((?:\w+\()?(\w+)", query)
            for label in labels.split(", ")
        }
        return [f"{metric}: {label}" for metric, label in sorted(asked) if not self._has(metric, label)]

    def _has(self, metric: str, label: str) -> bool:
        return any(found["metric"].get(label) for found in self.series(metric))


@contextmanager
def prometheus(*jobs: dict[str, Any], rules: Path | None = None) -> Iterator[Prometheus]:
    """Run one that scrapes *jobs* each second and evaluates *rules*."""
    program = programs() / "prometheus"
    with tempfile.TemporaryDirectory(prefix="llmproxy-prom-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = Path(folder) / "prometheus.yml"
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        told = {"global": every, "scrape_configs": list(jobs), "rule_files": [str(rules)] if rules else []}
        config.write_text(yaml.safe_dump(told))
        flags = (
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen([program, *flags], stdout=log, stderr=log, cwd=folder)
        try:
            _wait_ready(process, port, Path(folder) / "log")
            yield Prometheus(port)
        finally:
            process.terminate()
            process.wait(30)


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
            return
        ended = process.poll() is not None
        assert not ended, f"prometheus: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"prometheus is not ready: {log.read_text()[-3000:]}"
        time.sleep(0.2)


def promtool(*words: str) -> str:
    """Run promtool; return what it says, AssertionError if it fails."""
    done = subprocess.run([programs() / "promtool", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels(board: str) -> dict[str, str]:
    """Return every query of a dashboard by panel and letter, with Grafana's variables set to all."""
    raw = json.loads((MONITORING / board).read_text())
    return {
        f"{panel['title']} {target['refId']}": filled(target["expr"])
        for panel in raw["panels"]
        for target in panel["targets"]
    }


def filled(query: str) -> str:
    """Return a query as Grafana sends it."""
    for name, value in (("$__rate_interval", "20s"), ("$namespace", ".*"), ("$llmproxy", ".*"), ("$job", ".*")):
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def variables(board: str) -> list[tuple[str, str]]:
    """Return metric and label of each variable that asks `label_values(METRIC, LABEL)`."""
    raw = json.loads((MONITORING / board).read_text())["templating"]["list"]
    asked = [entry["query"]["query"] for entry in raw if entry["type"] == "query"]
    return [tuple(filled(q).removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)) for q in asked]  # type: ignore[misc]


def alerts(group: str) -> dict[str, str]:
    """Return the expression of each alert of a group."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    [rules] = [found["rules"] for found in groups if found["name"] == group]
    return {rule["alert"]: rule["expr"] for rule in rules}
