"""`cluster-down` leaves nothing, whatever was killed before: the command that starts the node, or the node itself.

A node of its own beside the one of the other tests; about a minute.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import cgroups, network, processes, providers
from cluster.places import SOURCES, Places

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(400)]
UP_TIMEOUT_S = 180.0


@pytest.fixture
def places() -> Iterator[Places]:
    """A state folder for this test alone, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="llmp-"))
    places = Places(cache=Places.from_environment().cache, state=folder / "llmproxy-tests")
    if why := providers.Built(places).why_not():
        pytest.skip(why)
    yield places
    assert command(places, "down").wait(UP_TIMEOUT_S) == 0
    shutil.rmtree(folder)


def command(places: Places, name: str) -> "subprocess.Popen[bytes]":
    """Start a command of the cluster's command line on the state folder of the test."""
    env = {k: v for k, v in os.environ.items() if k != "LLMPROXY_TEST_KUBECONFIG"}
    own = {"XDG_STATE_HOME": str(places.state.parent), "LLMPROXY_TEST_PROVIDER": "node"}
    return subprocess.Popen([sys.executable, "-m", "cluster", name], cwd=SOURCES.parent, env=env | own)


def left(places: Places) -> list[str]:
    """What there is of a node on this host."""
    found = [f"process {process.pid} {process.command}" for process in processes.of_node(places.node)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if str(places.state) in line]
    found += [
        f"control group {root / places.cgroup}" for root in cgroups.hierarchies() if (root / places.cgroup).exists()
    ]
    found += [f"link {places.link}"] if network.link_exists(places.link) else []
    return found + [str(path) for path in (places.node, places.kubeconfig) if path.exists()]


def test_nothing_is_left_after_a_crash_and_the_next_node_starts(places: Places) -> None:
    starting = command(places, "up")
    deadline_s = time.monotonic() + UP_TIMEOUT_S
    while len(processes.of_node(places.node)) < 4:  # the supervisor, etcd, the API server at least
        assert starting.poll() is None, "`up` ended before it could be killed"
        assert time.monotonic() < deadline_s, "no processes of a node appeared"
        time.sleep(0.05)
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    assert left(places), "nothing to remove: the test would prove nothing"

    assert command(places, "down").wait(UP_TIMEOUT_S) == 0

    assert left(places) == []

    assert command(places, "up").wait(UP_TIMEOUT_S) == 0
    for process in processes.of_node(places.node)[::2]:  # every other one: the rest is orphaned or ends with it
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue

    assert command(places, "down").wait(UP_TIMEOUT_S) == 0

    assert left(places) == []
