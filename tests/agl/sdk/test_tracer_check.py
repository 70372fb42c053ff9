"""What is told of an exporter that Agent-Lightning's tracers do not get along with."""

import logging
import subprocess
import sys
from importlib import metadata

import pytest

import procs
from llmproxy_agl import notices, tracer_check

pytestmark = pytest.mark.agl


def test_what_is_installed_is_well() -> None:
    assert tracer_check.exporter_problem() == ""  # as the extra `agl` asks for it


@pytest.mark.parametrize("version", ["1.45.0", "1.46.2", "2.0.0"])
def test_a_newer_exporter_is_told_of_with_the_way_out(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version if name == tracer_check.EXPORTER else "")

    assert f"{tracer_check.EXPORTER} {version} does not send" in tracer_check.exporter_problem()
    assert f"pip install '{tracer_check.EXPORTER}<1.45'" in tracer_check.exporter_problem()


@pytest.mark.parametrize("version", ["1.35.0", "1.44.0", "1.44.1.dev0"])
def test_an_older_one_is_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)

    assert tracer_check.exporter_problem() == ""


def test_the_extra_asks_for_one_that_works() -> None:
    text = (procs.ROOT / "pyproject.toml").read_text()

    assert f'"{tracer_check.EXPORTER}>=1.38,<{".".join(map(str, tracer_check.TOO_NEW))}"' in text


PROGRESS = "from llmproxy_agl import notices; import logging, sys; exec(sys.argv[1]); notices.progress('waits')"


@pytest.mark.parametrize(
    ("before", "printed"),
    [
        pytest.param("", "llmproxy_agl: waits\n", id="nothing is set up"),
        pytest.param("logging.basicConfig(level='INFO')", "INFO:llmproxy_agl:waits\n", id="a level that shows it"),
        pytest.param("logging.basicConfig(level='ERROR')", "", id="a level that does not"),
    ],
)
def test_a_wait_is_seen_whether_or_not_logging_is_set_up(before: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS, before], capture_output=True, text=True, timeout=120, check=True
    )

    assert "".join(line for line in done.stderr.splitlines(keepends=True) if "waits" in line) == printed


def test_a_remark_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_warned", set())
    with caplog.at_level(logging.WARNING, "llmproxy_agl"):
        notices.warn_once("a")
        notices.warn_once("a")

    assert caplog.messages == ["a"]
