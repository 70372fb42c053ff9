"""What `llmproxy top` makes of metrics, where it finds runs, and how it says what it cannot read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from llmproxy_cli.__main__ import app
from llmproxy_cli.local import registry
from llmproxy_cli.top import metrics, sources, view
from llmproxy_cli.top.metrics import Backlog, History, LimitUsage, PodMetrics, ProxyRow, Sample


def a_pod(
    name: str = "p-1",
    *,
    answered: int = 0,
    limited: int = 0,
    failed: int = 0,
    mode: str = "local",
    buckets: dict[str, int] | None = None,
    used: float = 1,
    more: str = "",
) -> PodMetrics:
    text = f"""\
llmproxy_requests_in_flight 2
llmproxy_limit_waiting 1
llmproxy_limiter_mode{{mode="local"}} {float(mode == "local")}
llmproxy_limiter_mode{{mode="{mode}"}} 1.0
llmproxy_limit{{kind="rpm",scope="proxy",model=""}} 10
llmproxy_limit_used{{kind="rpm",scope="proxy",model=""}} {used}
llmproxy_requests_total{{model="a",endpoint="chat.completions",status="200"}} {answered}
llmproxy_requests_total{{model="b",endpoint="chat.completions",status="429"}} {limited}
llmproxy_requests_total{{model="b",endpoint="chat.completions",status="502"}} {failed}
{more}"""
    for bound, count in (buckets or {}).items():
        text += f'\nllmproxy_request_duration_seconds_bucket{{model="a",le="{bound}"}} {count}'
    return PodMetrics(("n", "p"), name, metrics.parse(text + "\n"))


def row_of(*seen: list[PodMetrics], length: int = 10) -> ProxyRow:
    """Return what is shown after looks that are 2 s apart."""
    history = History(length)
    for at, pods in enumerate(seen):
        history.add(Sample(2.0 * at, tuple(pods)))
    [row] = history.rows()
    return row


def test_rates_are_increases_over_the_time_between_looks() -> None:
    row = row_of([a_pod(answered=100, limited=7, failed=1)], [a_pod(answered=104, limited=10, failed=2)])

    assert (row.requests_per_s, row.limited_per_s, row.failed_per_s) == (4.0, 1.5, 0.5)


def test_one_look_has_no_rate() -> None:
    row = row_of([a_pod(answered=100)])

    assert (row.requests_per_s, row.limited_per_s, row.p50_s) == (None, None, None)
    assert (row.in_flight, row.waiting, row.pods) == (2, 1, 1)


def test_a_process_that_was_started_again_counts_from_zero() -> None:
    row = row_of([a_pod(answered=100)], [a_pod(answered=6)])

    assert row.requests_per_s == 3.0


def test_a_pod_that_is_new_brings_no_calls_of_before() -> None:
    row = row_of([a_pod(answered=1)], [a_pod(answered=1), a_pod("p-2", answered=5000)])

    assert row.requests_per_s == 0.0
    assert row.pods == 2


def test_old_looks_are_left_behind() -> None:
    row = row_of([a_pod(answered=0)], [a_pod(answered=1000)], [a_pod(answered=1002)], length=1)

    assert row.requests_per_s == 1.0


def test_percentiles_are_of_the_calls_between_the_looks() -> None:
    before = {"0.1": 90, "1.0": 90, "+Inf": 90}
    after = {"0.1": 90, "1.0": 100, "+Inf": 100}

    row = row_of([a_pod(buckets=before)], [a_pod(buckets=after)])

    assert row.p50_s == pytest.approx(0.55)
    assert row.p99_s == pytest.approx(0.991)


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        pytest.param(0.5, {}, None, id="nothing"),
        pytest.param(0.5, {1.0: 0, float("inf"): 0}, None, id="no call"),
        pytest.param(0.5, {1.0: 10, float("inf"): 10}, 0.5, id="evenly within a bucket"),
        pytest.param(0.5, {1.0: 4, 3.0: 8, float("inf"): 8}, 1.0, id="on a bound"),
        pytest.param(0.99, {1.0: 1, float("inf"): 10}, 1.0, id="above the last bound"),
        pytest.param(0.5, {1.0: 0, 2.0: 2, float("inf"): 2}, 1.5, id="an empty bucket before"),
    ],
)
def test_quantiles(share: float, buckets: dict[float, float], expected: float | None) -> None:
    assert metrics.quantile(share, buckets) == expected


def test_pods_with_common_counters_tell_one_use_and_pods_on_shares_a_part_each() -> None:
    common = metrics.limit_usages([a_pod(mode="shared", used=4), a_pod("p-2", mode="shared", used=5)])
    parted = metrics.limit_usages([a_pod(mode="offline_quota", used=4), a_pod("p-2", mode="offline_quota", used=5)])

    assert common == (LimitUsage("", "rpm", 5, 10),)
    assert parted == (LimitUsage("", "rpm", 9, 10),)


def test_the_mode_of_a_roll_is_that_of_the_pod_that_decides() -> None:
    assert row_of([a_pod(mode="leader"), a_pod("p-2", mode="local")]).mode == "local"
    assert row_of([a_pod(mode="offline_quota")]).mode == "offline_quota"


def test_the_backlog_is_what_is_not_in_the_store() -> None:
    more = """\
llmproxy_records_pending 3
llmproxy_shipper_in_delivery 4
llmproxy_shipper_retry_calls 5
llmproxy_shipper_waiting_bytes 2048
llmproxy_shipper_oldest_undelivered_seconds 7.5
"""
    row = row_of([a_pod(more=more)])

    assert row.backlog == Backlog(calls=12, waiting_bytes=2048, oldest_s=7.5)
    assert view.behind(row.backlog) == "12 calls 2KiB 7.5s"
    assert row_of([a_pod()]).backlog is None


@pytest.mark.parametrize(
    "text", ["<html>not found</html>", "", "go_goroutines 7\n", 'llmproxy_requests_in_flight{a="b} 1\n']
)
def test_what_is_no_metrics_of_a_gateway_is_said(text: str) -> None:
    with pytest.raises(metrics.MetricsError):
        metrics.parse(text)


def printed(*seen: list[PodMetrics]) -> list[str]:
    history = History(1)
    for at, pods in enumerate(seen):
        history.add(Sample(2.0 * at, tuple(pods)))
    console = Console(width=view.PIPE_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(view.table(history.rows(), limits_apart=False))
    return captured.get().splitlines()


def test_in_a_pipe_a_proxy_is_one_line_with_every_column() -> None:
    head, line = printed([a_pod(answered=1)], [a_pod(answered=3)])

    assert head.split()[:3] == ["NAMESPACE", "NAME", "PODS"]
    assert line.split() == ["n", "p", "1", "local", "1.00", "0", "0", "2", "1", "-", "-", "-", "rpm", "1/10"]


def test_no_pod_is_said() -> None:
    assert printed([]) == ["no pods of an LLMProxy are running here"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0, "0"), (0.05, "0.05"), (9.999, "10.00"), (1234.5, "1234")]
)
def test_rates_are_short(value: float | None, text: str) -> None:
    assert view.rate(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0123, "12ms"), (2.345, "2.3s"), (65.0, "65s")])
def test_durations_are_short(value: float | None, text: str) -> None:
    assert view.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(1023, "1023B"), (1 << 20, "1MiB"), (3 << 30, "3.0GiB")])
def test_sizes_are_short(value: int, text: str) -> None:
    assert view.size(value) == text


def test_pods_that_do_not_run_are_not_asked() -> None:
    def raw(name: str, phase: str, labels: dict[str, str]) -> dict[str, object]:
        return {"metadata": {"name": name, "namespace": "n", "labels": labels}, "status": {"phase": phase}}

    mine = {"llmproxy.dev/name": "p"}
    pods = [raw("a", "Running", mine), raw("b", "Pending", mine), raw("c", "Running", {})]

    assert sources.running_pods(pods) == [(("n", "p"), "a")]


def test_a_missing_right_is_named_with_the_way_out() -> None:
    body = json.dumps({"kind": "Status", "message": 'pods "p-1" is forbidden: User "a" cannot get pods/proxy'})

    assert "cannot get pods/proxy; it needs list on pods and get on pods/proxy" in sources.refusal(403, body)
    assert sources.refusal(503, "upstream\nconnect error") == "503 upstream connect error"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "llmproxy/local"


def test_a_run_is_found_until_it_ends(state: Path) -> None:
    run = registry.LocalRun(os.getpid(), "n", "p", "http://127.0.0.1:4000", ("http://127.0.0.1:1",))

    registry.register(run)
    assert registry.running() == [run]
    assert (state.stat().st_mode & 0o777) == 0o700

    registry.unregister(run.pid)
    assert registry.running() == []
    assert list(state.iterdir()) == []


def test_what_a_killed_run_left_is_not_shown_and_removed_by_the_next(state: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    registry.register(registry.LocalRun(ended.pid, "n", "old", "http://127.0.0.1:1", ()))
    (state / "0.json").write_text("{half")

    assert registry.running() == []

    registry.register(registry.LocalRun(os.getpid(), "n", "new", "http://127.0.0.1:2", ()))
    assert [path.name for path in state.iterdir()] == [f"{os.getpid()}.json"]


def test_a_run_is_preferred_unless_a_flag_names_a_cluster(state: Path) -> None:
    assert not view.TopOptions().is_local
    registry.register(registry.LocalRun(os.getpid(), "n", "p", "http://127.0.0.1:2", ()))

    assert view.TopOptions().is_local
    assert not view.TopOptions(namespace="n").is_local
    assert not view.TopOptions(everywhere=True).is_local
    assert view.TopOptions(namespace="n", local=True).is_local


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        pytest.param(["--local"], "no `llmproxy local` is running", id="no run"),
        pytest.param(["--kubeconfig", "/nowhere/config"], "no cluster can be reached", id="no kubeconfig"),
    ],
)
def test_nothing_to_look_at_is_said(state: Path, flags: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["top", "--once", *flags])

    assert done.exit_code == 1
    assert complaint in done.output
