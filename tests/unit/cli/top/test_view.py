"""The table of `llmproxy top`, and its choice of a source."""

import os
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from llmproxy_cli.__main__ import app
from llmproxy_cli.local import registry
from llmproxy_cli.top import view
from llmproxy_cli.top.metrics import History, PodMetrics, Sample
from podmetrics import a_pod


def printed(*seen: list[PodMetrics]) -> list[str]:
    history = History(1)
    for at, pods in enumerate(seen):
        history.add(Sample(2.0 * at, tuple(pods)))
    console = Console(width=view.PIPE_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(view.table(history.rows(), limit_per_line=False))
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


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "llmproxy/local"


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
