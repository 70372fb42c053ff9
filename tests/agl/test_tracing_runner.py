"""A runner that traces itself tells of each call as well: triplets stay one a call, however wrong its clock is."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

import procs
from aglrig import Json, Road, agentlightning

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Json:
    program = str(procs.ROOT / "tests/agl/traced_runner.py")
    folder = tmp_path_factory.mktemp("runner")  # agentops writes a log where it stands
    with procs.running("llmproxy.echo", "--port", "0", ready="ready on") as echo:
        line = [sys.executable, "-W", "ignore", program, f"http://127.0.0.1:{echo.port}/v1"]
        env = {**os.environ, **procs.FAKES}
        done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("skew_s", [0.0, 0.02, -0.02, 0.6, -0.6, 1.0, -1.0])
async def test_triplets_stay_one_a_call(road: Road, traced: Json, skew_s: float) -> None:
    ids = await road.rollout()
    runner = [span for span in traced["spans"] if span["name"] == "openai.chat.completion"]
    assert len(runner) == len(traced["exchanges"]) == 2
    for span, exchange in zip(runner, traced["exchanges"], strict=True):
        bodies = {name: base64.b64decode(data) for name, data in exchange.items()}
        # The gateway's call lies within the runner's, by a clock that is right.
        begin, end = int(span["start_time"] * 1e9) + 1_000_000, int(span["end_time"] * 1e9) - 1_000_000
        await road.call(ids, started_ns=begin, ended_ns=end, **bodies)
    for span in traced["spans"]:
        await asyncio.to_thread(road.store.add_span, told(road, span, ids, skew_s))
    spans = await road.spans(ids)
    answers = [json.loads(base64.b64decode(exchange["response"])) for exchange in traced["exchanges"]]
    wanted = sorted((a["id"], a["prompt_token_ids"], a["choices"][0]["token_ids"]) for a in answers)
    for adapter in (agentlightning.TracerTraceToTriplet(), agentlightning.LlmProxyTraceToTriplet()):
        made: list[Any] = adapter.adapt(spans)
        got = sorted((t.metadata["response_id"], t.prompt["token_ids"], t.response["token_ids"]) for t in made)
        assert got == wanted, type(adapter).__name__


def told(road: Road, span: Json, ids: tuple[str, str], skew_s: float) -> Json:
    """Return a span of the runner's as it stores it, by a clock that is wrong by *skew_s*."""
    number = road.store.next_id(*ids)
    times = {"start_time": span["start_time"] + skew_s, "end_time": span["end_time"] + skew_s}
    unique = f"{time.time_ns():032x}"[-32:]
    moved = {"rollout_id": ids[0], "attempt_id": ids[1], "sequence_id": number, "trace_id": unique}
    return {**span, **times, **moved}
