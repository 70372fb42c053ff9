"""Pause and resume by the control port: who may, what callers see, and what goes on meanwhile."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from integration.gateway.conftest import PATH, Echo, Gateway, deployment, document, gateway

TOKEN = "a-token-of-the-control-port"
WITH_TOKEN = ("--control-host", "127.0.0.1", "--control-port", "0", "--control-token-file")


def with_control(folder: Path) -> tuple[str, ...]:
    file = folder / "token"
    file.write_text(f"{TOKEN}\n")
    return (*WITH_TOKEN, str(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="module")
def _running(_echo_server: Echo, folder: Path) -> Iterator[Gateway]:
    with gateway(folder, document(deployment(_echo_server.port)), *with_control(folder)) as running:
        yield running


@pytest.fixture
def here(_running: Gateway, echo: Echo, folder: Path) -> Gateway:
    (folder / "token").write_text(f"{TOKEN}\n")
    _running.control("POST", "/resume", TOKEN)
    echo.reset()
    return _running


class Calling(threading.Thread):
    """A call on a thread."""

    def __init__(self, here: Gateway, **directive: Any) -> None:
        super().__init__()
        self.answer: httpx2.Response | None = None
        self._here = here
        self._directive = directive
        self.start()

    def run(self) -> None:
        self.answer = self._here.echo(**self._directive)


def test_without_the_token_nothing_is_done_or_said(here: Gateway) -> None:
    asked = [("POST", "/pause"), ("POST", "/resume"), ("GET", "/inflight"), ("GET", "/docs"), ("GET", "/nothing")]
    for token in (None, "", "another", f"{TOKEN}x", TOKEN[:-1]):
        for method, path in asked:
            answer = here.control(method, path, token, {"ttl_s": "not looked at"} if method == "POST" else None)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (method, path, token)
            assert TOKEN not in answer.text
    assert here.chat().status_code == 200


def test_the_ports_that_need_no_token_cannot_pause(here: Gateway) -> None:
    for url in (here.url, f"http://127.0.0.1:{here.admin_port}"):
        for path in ("/pause", "/resume", "/inflight"):
            assert httpx2.post(url + path, json={}).status_code == 404
    assert here.chat().status_code == 200


def test_without_a_token_file_the_port_is_not_there(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port)), "--control-port", "0") as plain:
        assert plain.control_port == 0


def test_another_token_in_the_file_counts_at_once_and_none_shuts_everybody_out(here: Gateway, folder: Path) -> None:
    (folder / "token").write_text("the-next-one")
    assert here.control("GET", "/inflight", TOKEN).status_code == 401
    assert here.control("GET", "/inflight", "the-next-one").status_code == 200
    (folder / "token").write_text("\n")
    assert here.control("GET", "/inflight", "").status_code == 401
    (folder / "token").unlink()
    assert here.control("GET", "/inflight", "the-next-one").status_code == 401


def test_paused_calls_get_429_and_a_true_retry_after_and_nobody_calls_the_model(here: Gateway, echo: Echo) -> None:
    told = here.control("POST", "/pause", TOKEN, {"retry_after_s": 1.5, "ttl_s": 60}).json()
    answer = here.chat()
    listed = httpx2.get(f"{here.url}/v1/models")

    assert (told["paused"], told["in_flight"], told["retry_after_s"]) == (True, 0, 1.5)
    assert 0 < told["ends_in_s"] <= 60
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["retry-after-ms"]) == (429, "2", "1500")
    assert answer.json()["error"]["code"] == "paused"
    assert (listed.status_code, httpx2.get(f"{here.url}/health").status_code) == (200, 200)
    assert (here.admin("/readyz").status_code, here.admin("/readyz").json()["paused"]) == (200, True)
    assert here.metric("llmproxy_paused") == 1
    assert echo.stats()["calls"] == 0

    assert here.control("POST", "/resume", TOKEN).json() == {"paused": False, "in_flight": 0}
    assert here.chat().status_code == 200
    assert here.metric("llmproxy_paused") == 0


def test_a_call_in_flight_is_finished_and_waited_for(here: Gateway) -> None:
    call = Calling(here, delay_ms=1500)
    while here.control("GET", "/inflight", TOKEN).json()["in_flight"] == 0:
        time.sleep(0.01)

    at_once = here.control("POST", "/pause", TOKEN).json()
    refused = here.chat().status_code
    waited = here.control("POST", "/pause?wait_s=60", TOKEN).json()

    call.join()
    assert (at_once["in_flight"], refused, waited["in_flight"]) == (1, 429, 0)
    assert call.answer is not None
    assert call.answer.status_code == 200


def test_a_wait_ends_with_its_time(here: Gateway) -> None:
    call = Calling(here, delay_ms=3000)
    while here.control("GET", "/inflight", TOKEN).json()["in_flight"] == 0:
        time.sleep(0.01)
    assert here.control("GET", "/inflight?wait_s=0.2", TOKEN).json()["in_flight"] == 1
    call.join()


def test_a_pause_ends_by_itself(here: Gateway) -> None:
    here.control("POST", "/pause", TOKEN, {"ttl_s": 0.5})
    deadline = time.monotonic() + 30
    while (status := here.chat().status_code) == 429 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 200
    assert here.control("GET", "/inflight", TOKEN).json()["paused"] is False


def test_what_makes_no_sense_is_refused_and_pauses_nothing(here: Gateway) -> None:
    fields = [{"retry_after_s": 0}, {"retry_after_s": 61}, {"ttl_s": 0}, {"ttl_s": 1e9}, {"ttl_s": "NaN"}, {"until": 1}]
    for body in (*fields, [1]):
        assert here.control("POST", "/pause", TOKEN, body).status_code == 422, body
    assert here.control("POST", "/pause?wait_s=-1", TOKEN).status_code == 422
    assert here.chat().status_code == 200


def test_both_sdks_wait_and_are_served_after_it(here: Gateway) -> None:
    seen = here.metric("llmproxy_requests_total", status="429")
    here.control("POST", "/pause", TOKEN, {"retry_after_s": 0.5})
    one = openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=60)
    other = anthropic.Anthropic(base_url=here.url, api_key="none", max_retries=60)
    said: dict[str, str | None] = {}

    def ask_openai() -> None:
        answer = one.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
        said["openai"] = answer.choices[0].message.content

    def ask_anthropic() -> None:
        answer = other.messages.create(model="echo", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
        said["anthropic"] = answer.content[0].type

    threads = [threading.Thread(target=ask) for ask in (ask_openai, ask_anthropic)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while here.metric("llmproxy_requests_total", status="429") < seen + 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    before = dict(said)
    here.control("POST", "/resume", TOKEN)
    for thread in threads:
        thread.join()
    assert before == {}
    assert said["anthropic"] == "text"
    assert said["openai"]


def test_both_sdks_raise_their_rate_limit_error_without_retries(here: Gateway) -> None:
    here.control("POST", "/pause", TOKEN)
    with pytest.raises(openai.RateLimitError, match="calls are paused"):
        here.sdk().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    other = anthropic.Anthropic(base_url=here.url, api_key="none", max_retries=0)
    with pytest.raises(anthropic.RateLimitError) as caught:
        other.messages.create(model="echo", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
    assert json.loads(caught.value.response.text)["error"]["type"] == "rate_limit_error"


def test_who_waits_for_a_limit_is_sent_away_by_a_pause(echo: Echo, tmp_path: Path) -> None:
    told = document(
        deployment(echo.port),
        rate_limits={"max_parallel": 1},
        overflow={"mode": "Queue", "max_queue_time_s": 120},
    )
    with gateway(tmp_path, told, *with_control(tmp_path)) as here:
        first = Calling(here, delay_ms=2000)
        while here.metric("llmproxy_requests_in_flight") < 1:
            time.sleep(0.01)
        second = Calling(here, delay_ms=1)
        while here.metric("llmproxy_limit_waiting") < 1:
            time.sleep(0.01)
        here.control("POST", "/pause", TOKEN)
        second.join()
        still = here.control("GET", "/inflight", TOKEN).json()["in_flight"]
        first.join()
        here.control("POST", "/resume", TOKEN)
        after = here.chat().status_code
    assert second.answer is not None
    assert first.answer is not None
    assert (second.answer.status_code, second.answer.json()["error"]["code"]) == (429, "paused")
    assert (still, first.answer.status_code, after) == (1, 200, 200)


def test_a_pause_costs_no_limit(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port), rate_limits={"rpm": 2})
    with gateway(tmp_path, told, *with_control(tmp_path)) as here:
        here.control("POST", "/pause", TOKEN)
        paused = [here.chat().status_code for _ in range(5)]
        here.control("POST", "/resume", TOKEN)
        after = [here.chat().status_code for _ in range(3)]
        limits = here.admin("/limits").json()
    assert (paused, after) == ([429] * 5, [200, 200, 429])
    assert limits["mode"] == "local"
    [rpm] = limits["limits"]
    assert (rpm["kind"], rpm["scope"], rpm["model"], rpm["limit"], rpm["used"]) == ("rpm", "proxy", "", 2, 2)


def test_a_stream_in_flight_goes_on_through_a_pause(here: Gateway) -> None:
    content = json.dumps({"echo": {"chunks": 10, "chunk_ms": 100}})
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": content}]}
    text = ""
    with httpx2.stream("POST", here.url + PATH, json=body, timeout=60) as answer:
        for part in answer.iter_text():
            if not text:
                here.control("POST", "/pause", TOKEN)
            text += part
    assert text.endswith("data: [DONE]\n\n")
