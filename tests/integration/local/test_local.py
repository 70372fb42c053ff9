"""Local mode: serve, roll on an edit, survive a crash, end without a trace."""

import json
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from openai.types.chat import ChatCompletionChunk

from integration.local.conftest import PYTHON, Local, is_alive, kill, local, manifest
from procs import AGL_PYTHON, FAKES, Process, free_port, running, started
from waiting import until

pytestmark = pytest.mark.timeout(180)


def test_a_file_is_served_under_its_limits(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port, "  rateLimits: {rpm: 3}")) as here:
        statuses = [here.chat(f"number {i}").status_code for i in range(5)]
        answer = here.sdk().models.list()

    assert statuses == [200, 200, 200, 429, 429]
    assert [m.id for m in answer.data] == ["echo"]


SLOW = json.dumps({"echo": {"chunks": 40, "chunk_ms": 100}})


class Traffic:
    """Calls without a pause, on new connections and kept ones, until it is told to stop."""

    def __init__(self, here: Local) -> None:
        self._here = here
        self._stop = threading.Event()
        self.statuses: list[int | str] = []
        self.finishes: list[str | None] = []
        calls = [threading.Thread(target=self._calls, args=(kept,)) for kept in (True, False)]
        self._threads = [*calls, threading.Thread(target=self._streams)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_calls(self, count: int) -> None:
        """Wait for so many more answers."""
        before = len(self.statuses)
        until(lambda: len(self.statuses) >= before + count, "calls go on")

    def _calls(self, kept: bool) -> None:  # noqa: FBT001 - an argument of a thread
        with httpx2.Client() as client:
            while not self._stop.is_set():
                body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
                post = client.post if kept else httpx2.post
                try:
                    self.statuses.append(post(f"{self._here.url}/v1/chat/completions", json=body).status_code)
                except httpx2.HTTPError as exc:
                    self.statuses.append(repr(exc))
                time.sleep(0.01)

    def _streams(self) -> None:
        while not self._stop.is_set():
            stream = self._here.sdk().chat.completions.create(
                model="echo", messages=[{"role": "user", "content": SLOW}], stream=True
            )
            self.finishes.append([chunk.choices[0].finish_reason for chunk in stream][-1])


def test_an_edit_rolls_without_a_refused_call_or_a_cut_stream(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port, "  rateLimits: {rpm: 100000}")) as here:
        with Traffic(here) as traffic:
            traffic.wait_for_calls(100)
            here.edit("rpm: 100000", "rpm: 90000")
            here.wait_ready(2)
            traffic.wait_for_calls(100)
        limit = here.chat("hi").headers["x-ratelimit-limit-requests"]

    assert set(traffic.statuses) == {200}
    assert set(traffic.finishes) == {"stop"}
    assert limit == "90000"


def test_an_edit_of_a_limit_does_not_forget_what_was_admitted(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port, "  rateLimits: {rpm: 5}")) as here:
        before = [here.chat("hi").status_code for _ in range(7)]
        here.edit("rpm: 5", "rpm: 8")
        here.wait_ready(2)
        after = [here.chat("hi").status_code for _ in range(7)]

    assert (before.count(200), after.count(200)) == (5, 3)


def test_a_bad_edit_is_told_with_its_field_and_changes_nothing(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port, "  rateLimits: {rpm: 50}")) as here:
        children = here.children()
        here.edit("rpm: 50", "rpm: none")
        line = here.process.wait_for("the edit is not in effect", 10)
        answer = here.chat("hi")
        same = here.children()
        here.edit("rpm: none", "rpm: 60")
        here.wait_ready(2)
        healed = here.chat("hi")

    assert "spec.rateLimits.rpm" in line
    assert (answer.status_code, answer.headers["x-ratelimit-limit-requests"]) == (200, "50")
    assert same == children
    assert healed.headers["x-ratelimit-limit-requests"] == "60"


def test_a_comment_is_no_reason_to_roll(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port, "  rateLimits: {rpm: 50}")) as here:
        before = here.children()
        here.edit("rpm: 50}", "rpm: 50}  # a comment")
        time.sleep(2)

        assert here.children() == before


def test_a_part_that_dies_is_started_again_and_the_port_stays_open(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port)) as here:
        kill(here.children()["llmproxy.gateway"])
        here.process.wait_for("gateway exited with SIGKILL; restarting it", 10)

        assert here.chat("hi").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_the_end_calls_are_finished_and_nothing_is_left(
    echo: Process, tmp_path: Path, number: signal.Signals
) -> None:
    with local(tmp_path, manifest(echo.port, '  spans: {store: "http://127.0.0.1:9"}')) as here:
        children = here.children()
        answers: list[httpx2.Response] = []
        call = threading.Thread(
            target=lambda: answers.append(here.chat(json.dumps({"echo": {"delay_ms": 1500}}), timeout_s=20))
        )
        call.start()
        until(lambda: httpx2.get(f"http://127.0.0.1:{echo.port}/stats", timeout=10).json()["in_flight"] == 1)
        here.process.signal(number)
        call.join()
        code = here.process.wait(60)

    assert (code, [a.status_code for a in answers]) == (0, [200])
    assert set(children) == {"llmproxy.gateway", "llmproxy.shipper"}
    assert [pid for pid in children.values() if is_alive(pid)] == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_when_it_is_killed_its_parts_end_too(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port, '  spans: {store: "http://127.0.0.1:9"}')) as here:
        children = here.children()
        here.process.signal(signal.SIGKILL)
        here.process.wait()
        for _ in range(400):
            if not any(is_alive(pid) for pid in children.values()):
                break
            time.sleep(0.05)

    assert len(children) == 2
    assert [name for name, pid in children.items() if is_alive(pid)] == []


def test_spans_of_calls_are_in_the_store_when_it_has_ended(echo: Process, store: str, tmp_path: Path) -> None:
    made = httpx2.post(f"{store}/v1/agl/rollouts", json={"input": {"a": 1}, "mode": "train"}).json()
    rollout, attempt = made["rollout_id"], made["attempt"]["attempt_id"]
    with local(tmp_path, manifest(echo.port, f'  spans: {{store: "{store}"}}')) as here:
        answers = [here.chat(f"number {i}", path=f"/rollout/{rollout}/attempt/{attempt}/v1").json() for i in range(10)]
        assert here.process.end(60) == 0

    query = {"rollout_id": rollout, "name": "litellm_request", "limit": -1}
    spans = httpx2.get(f"{store}/v1/agl/spans", params=query).json()["items"]
    assert {s["attributes"]["gen_ai.response.id"] for s in spans} == {a["id"] for a in answers}
    assert len(spans) == 10
    assert list((tmp_path / "tmp").iterdir()) == []


def gemini_manifest(port: int, key: str) -> str:
    return f"""\
apiVersion: llmproxy.dev/v1alpha1
kind: LLMProxy
metadata: {{name: translated}}
spec:
  models:
  - name: gemini
    deployments:
    - model: gemini/gemini-2.0-flash
      apiBase: "http://127.0.0.1:{port}/v1beta"
      apiKey: {{secretKeyRef: {{name: google, key: api-key}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: google}}
stringData: {{api-key: {key}}}
"""


BREAKERS = "a\u2028b\u2029c\u0085d \u2028\u0085 ä€😀 e\u0301 end"


def said_in(stream: Iterable[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_a_model_that_needs_translation_is_served_and_a_new_secret_rolls(tmp_path: Path) -> None:
    with (
        running("fakes.gemini", "--key", "AIza-right", ready="ready on", env=FAKES) as gemini,
        local(tmp_path, gemini_manifest(gemini.port, "AIza-wrong"), "--translator-python", str(AGL_PYTHON)) as here,
    ):
        refused = here.chat("hi", "gemini")
        here.edit("AIza-wrong", "AIza-right")
        here.wait_ready(2)
        plain = here.chat("hi \u2028 there", "gemini")
        stream = here.sdk().chat.completions.create(
            model="gemini", messages=[{"role": "user", "content": "hi \u2028 there"}], stream=True
        )
        streamed = said_in(stream)
        response = here.sdk().responses.create(model="gemini", input="hi \u2028 there")
        with here.sdk().responses.stream(model="gemini", input="hi \u2028 there") as events:
            in_parts = events.get_final_response()
        claude = anthropic.Anthropic(base_url=here.url, api_key="none", max_retries=0)
        said: Any = {"model": "gemini", "max_tokens": 99, "messages": [{"role": "user", "content": BREAKERS}]}
        message = claude.messages.create(**said)
        with claude.messages.stream(**said) as parts:
            message_in_parts = parts.get_final_text()
        in_chat = [here.chat(BREAKERS, "gemini").json()["choices"][0]["message"]["content"]]
        in_chat.append(
            said_in(
                here.sdk().chat.completions.create(
                    model="gemini", messages=[{"role": "user", "content": BREAKERS}], stream=True
                )
            )
        )

    assert (response.output_text, in_parts.output_text) == ("hi \u2028 there", "hi \u2028 there")
    assert (message.content[0].text, message_in_parts) == (BREAKERS, BREAKERS)
    assert in_chat == [BREAKERS, BREAKERS]
    assert refused.status_code == 400
    assert "API key not valid" in refused.json()["error"]["message"]
    assert plain.json()["choices"][0]["message"]["content"] == "hi \u2028 there"
    assert streamed == "hi \u2028 there"
    assert "AIza" not in here.process.output


@pytest.mark.parametrize(
    ("spec", "flags", "complaint"),
    [
        pytest.param("  rateLimits: {rpm: 0}", (), "spec.rateLimits.rpm", id="a wrong field"),
        pytest.param(
            "", ("--connect-to", "nobody:1=127.0.0.1:1"), "no apiBase or store is there", id="no such address"
        ),
        pytest.param("", ("--secret", "a/b=C"), "no field in the file names it", id="no such secret"),
        pytest.param("", ("--name", "other"), "is called 'other'", id="no such name"),
    ],
)
def test_what_cannot_run_is_said_and_ends_with_1(
    echo: Process, tmp_path: Path, spec: str, flags: tuple[str, ...], complaint: str
) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(manifest(echo.port, spec))

    process = started(PYTHON, "-m", "llmproxy_cli", "local", "-f", str(file), "--port", str(free_port()), *flags)

    assert process.wait() == 1
    process.end()
    assert complaint in process.output


def test_a_port_that_is_taken_is_said(echo: Process, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(manifest(echo.port))

    process = started(PYTHON, "-m", "llmproxy_cli", "local", "-f", str(file), "--port", str(echo.port))

    assert process.wait() == 1
    process.end()
    assert f"cannot listen on 127.0.0.1:{echo.port}" in process.output
    assert "--port" in process.output


def test_without_litellm_the_way_to_get_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(gemini_manifest(1, "x"))

    process = started(PYTHON, "-m", "llmproxy_cli", "local", "-f", str(file), "--port", str(free_port()))

    assert process.wait() == 1
    process.end()
    assert "--translator-python" in process.output


KEYS = """---
apiVersion: v1
kind: Secret
metadata: {name: trainers}
stringData: {alice: first-key-of-alice}
"""


def test_keys_of_callers_and_an_edit_of_them_that_rolls_nothing(echo: Process, tmp_path: Path) -> None:
    told = manifest(echo.port, "  access: {apiKeys: {secretRef: {name: trainers}}}") + KEYS
    with local(tmp_path, told) as here:
        body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}

        def ask(key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return httpx2.post(f"{here.url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code

        before = [ask("first-key-of-alice"), ask("second-key-of-alice"), here.chat("hi").status_code]
        children = here.children()
        here.edit("first-key", "second-key")
        here.process.wait_for("API keys of callers replaced")
        deadline = time.monotonic() + 30
        after: list[int] = []
        while after != [401, 200] and time.monotonic() < deadline:
            time.sleep(0.1)
            after = [ask("first-key-of-alice"), ask("second-key-of-alice")]
        same = here.children() == children
    assert (before, after, same) == ([200, 401, 401], [401, 200], True)
    assert "key-of-alice" not in here.process.output


def test_keys_that_are_not_in_the_file_are_told(echo: Process, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(manifest(echo.port, "  access: {apiKeys: {secretRef: {name: trainers}}}"))
    process = started(PYTHON, "-m", "llmproxy_cli", "local", "-f", str(file), "--port", str(free_port()))
    assert process.wait() == 1
    process.end()
    assert "spec.access.apiKeys: Secret 'trainers'" in process.output


def test_it_is_paused_and_resumed_with_the_token_that_it_names(echo: Process, tmp_path: Path) -> None:
    with local(tmp_path, manifest(echo.port)) as here:
        words = here.process.wait_for("to pause it").split("to pause it: ")[1]
        url, _, file = words.partition("/pause with the token in ")
        headers = {"authorization": f"Bearer {Path(file.strip()).read_text()}"}
        mode = Path(file.strip()).stat().st_mode & 0o777
        httpx2.post(f"{url}/pause", headers=headers)
        paused = here.chat("hi").status_code
        httpx2.post(f"{url}/resume", headers=headers)
        resumed = here.chat("hi").status_code
        anybody = httpx2.post(f"{url}/pause").status_code
    assert (paused, resumed, anybody, mode) == (429, 200, 401, 0o600)
