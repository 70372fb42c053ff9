"""The programs of examples/agent-lightning, run as they are, and what they print."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import procs

pytestmark = [pytest.mark.agl, pytest.mark.timeout(240)]
FOLDER = procs.ROOT / "examples/agent-lightning"


def run(script: str, *args: str, echo: str, store_url: str = "", tmp: Path) -> str:
    """Return what *script* prints; its proxies leave nothing in *tmp*."""
    env = {
        **os.environ,
        "MODEL_API_BASE": echo,
        "STORE_URL": store_url,
        "TMPDIR": str(tmp),
        "AGL_SERVER_PORT": str(procs.free_port()),
    }
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *args],
        env=env,
        cwd=tmp,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def check_rollouts(found: list[dict[str, Any]], count: int) -> None:
    """Each call is one example with token ids, and the reward stands at the last one, returned (OpenAI) or emitted."""
    rollouts = [line for line in found if "rollout" in line]
    assert len(rollouts) == count
    for line in rollouts:
        assert line["status"] == "succeeded"
        assert len(line["tokens"]) == len(line["calls"]) == 2
        assert all(prompt > 0 and response > 0 for prompt, response in line["tokens"])
        assert line["rewards"][0] is None
        assert line["rewards"][1] > 0


@pytest.mark.parametrize(
    ("tracer", "agent"),
    [
        ("otel", "anthropic"),
        ("agentops", "openai"),
        pytest.param("otel", "openai", marks=pytest.mark.long),
        pytest.param("agentops", "anthropic", marks=pytest.mark.long),
    ],
)
def test_every_call_of_four_runners_is_an_example_when_its_rollout_succeeds(
    agent: str, tracer: str, echo: str, short_tmp: Path
) -> None:
    found = lines(run("train.py", "--agent", agent, "--tracer", tracer, "--rollouts", "8", echo=echo, tmp=short_tmp))

    check_rollouts(found, 8)
    assert found[-1] == {"running": False}
    assert [p.name for p in short_tmp.iterdir() if p.name.startswith("llmproxy-agl")] == []


def most_in_a_second(found: list[dict[str, Any]]) -> int:
    at = sorted(start for line in found for start in line.get("calls", ()))
    return max(sum(1 for other in at if first <= other < first + 1) for first in at)


def test_a_limit_is_raised_while_it_trains(echo: str, short_tmp: Path) -> None:
    args = ("--rps", "2", "--raise-to", "100", "--rollouts", "6")
    found = lines(run("train.py", *args, echo=echo, tmp=short_tmp))

    raised = next(i for i, line in enumerate(found) if line.get("limit") == 100)
    check_rollouts(found, 12)
    # Spans begin when a call arrives and rejected ones are none: admissions are at most 2 a second, arrivals nearly so.
    assert most_in_a_second(found[:raised]) <= 3
    assert most_in_a_second(found[raised:]) > 3


def test_without_stop_nothing_is_left_of_it(echo: str, short_tmp: Path) -> None:
    found = lines(run("train.py", "--no-stop", "--rollouts", "2", echo=echo, tmp=short_tmp))

    check_rollouts(found, 2)
    assert [p.name for p in short_tmp.iterdir() if p.name.startswith("llmproxy-agl")] == []


def test_set_up_with_limits(echo: str, store_url: str, short_tmp: Path) -> None:
    text = run("set_up_with_limits.py", echo=echo, store_url=store_url, tmp=short_tmp)

    assert "You said: hello" in text
    assert "requests a minute: 60" in text


def test_give_it_to_the_trainer(echo: str, short_tmp: Path) -> None:
    text = run("give_it_to_the_trainer.py", echo=echo, tmp=short_tmp)

    told = [re.fullmatch(r"(\w+): succeeded, 2 calls, reward (\d+\.0)", line) for line in text.splitlines()]
    assert sorted(line[1] for line in told if line) == ["four", "one", "three", "two"], text
    assert [p.name for p in short_tmp.iterdir() if p.name.startswith("llmproxy-agl")] == []


def test_change_limits(echo: str, store_url: str, short_tmp: Path) -> None:
    text = run("change_limits.py", echo=echo, store_url=store_url, tmp=short_tmp)

    assert re.findall(r"(before|after): (\d+)", text) == [("before", "60"), ("after", "120")]


def test_update_weights(echo: str, store_url: str, short_tmp: Path) -> None:
    text = run("update_weights.py", echo=echo, store_url=store_url, tmp=short_tmp)

    found = dict(re.findall(r"^(before|while the weights were loaded|after): (\d+)$", text, re.MULTILINE))
    assert int(found["before"]) > 0, text
    assert found["while the weights were loaded"] == "0"
    assert int(found["after"]) > 0, text
    assert "RateLimitError" not in text


def test_verify_limits(echo: str, store_url: str, short_tmp: Path) -> None:
    text = run("verify_limits.py", echo=echo, store_url=store_url, tmp=short_tmp)

    assert "answered: 5 rejected: 15" in text
    assert len(re.findall(r"429, come back in \d+ s", text)) == 15
