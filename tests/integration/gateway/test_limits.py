"""Limits as callers meet them. What they promise is tested in unit/limits and integration/limits."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from integration.gateway.conftest import PATH, Echo, deployment, document, gateway, scripted
from waiting import until

SLOW = json.dumps({"echo": {"delay_ms": 700}})
LONG = json.dumps({"echo": {"chunks": 200, "chunk_ms": 100}})


def test_of_twenty_requests_at_five_a_minute_five_are_served(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port), rate_limits={"rpm": 5})
    with gateway(tmp_path, told) as here:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: here.chat(), range(20)))
        rejected = here.metric("llmproxy_rejections_total", kind="rpm", scope="proxy")
        requests = here.metric("llmproxy_requests_total", status="429")

    refused = [a for a in answers if a.status_code == 429]
    assert [a.status_code for a in answers].count(200) == 5
    assert len(refused) == 15
    assert echo.stats()["calls"] == 5
    assert (rejected, requests) == (15, 15)
    for answer in refused:
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert "5 requests in any 60 s" in error["message"]
        assert 55 <= int(answer.headers["retry-after"]) <= 60, "SDKs and agents drop a longer one"
        assert 55_000 <= int(answer.headers["retry-after-ms"]) <= 60_000
        assert answer.headers["x-ratelimit-limit-requests"] == "5"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_retry_after_is_true(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port), rate_limits={"rps": 2})) as here:
        answers = [here.chat() for _ in range(3)]
        refused = next(a for a in answers if a.status_code == 429)
        time.sleep(int(refused.headers["retry-after-ms"]) / 1000)
        assert here.chat().status_code == 200


def test_a_request_that_the_gateway_itself_refuses_costs_nothing(echo: Echo, tmp_path: Path) -> None:
    claude = deployment(echo.port, model="anthropic/claude")
    told = document(claude, rate_limits={"rpm": 5, "tpm": 50_000, "max_parallel": 2})
    with gateway(tmp_path, told) as here:
        refused = here.chat(n=2)
        used = {kind: here.metric("llmproxy_limit_used", kind=kind) for kind in ("rpm", "tpm", "maxParallel")}

    assert refused.status_code == 400
    assert "Anthropic" in refused.json()["error"]["message"]
    assert echo.stats()["calls"] == 0
    assert used == {"rpm": 0, "tpm": 0, "maxParallel": 0}


def test_the_sdk_backs_off_by_itself(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port), rate_limits={"rps": 1})) as here:
        sdk = here.sdk(max_retries=3)
        for _ in range(3):
            sdk.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
        assert here.metric("llmproxy_rejections_total", kind="rps") >= 1


def test_a_limit_of_one_model_leaves_others_alone(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port))
    told["models"].append(
        {"name": "small", "rate_limits": {"rpm": 1}, "deployments": [deployment(echo.port, "small/0")]}
    )
    with gateway(tmp_path, told) as here:
        assert [here.chat(model="small").status_code for _ in range(2)] == [200, 429]
        answer = here.chat()
    assert answer.status_code == 200
    assert "x-ratelimit-limit-requests" not in answer.headers


SAYS = (
    b"X-RateLimit-Limit-Requests: 99\r\nX-RateLimit-Remaining-Tokens: 98\r\nAnthropic-RateLimit-Requests-Limit: 97\r\n"
    b"Anthropic-RateLimit-Input-Tokens-Limit: 96\r\nRateLimit-Policy: x\r\nX-Other: secret\r\n"
)


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({}, {"99", "98", "97", "96", "x"}),
        ({"max_parallel": 5}, {"99", "98", "97", "96", "x"}),
        ({"rpm": 5}, {"98", "96", "x"}),
        ({"tpm": 5000}, {"99", "97", "x"}),
        ({"rpm": 5, "tpm": 5000}, set()),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_limits_are_told_unless_one_of_their_sort_is_ours(
    tmp_path: Path, limits: dict[str, int], passed: set[str], *, stream: bool
) -> None:
    plain, streamed = b"application/json\r\nContent-Length: 2\r\n\r\n{}", b"text/event-stream\r\n\r\ndata: [DONE]\n\n"

    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + SAYS + b"Content-Type: " + (streamed if stream else plain))

    with scripted(serve) as port, gateway(tmp_path, document(deployment(port), rate_limits=limits)) as here:
        headers = here.chat(stream=stream).headers
    said = {"x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "anthropic-ratelimit-requests-limit"}
    said |= {"anthropic-ratelimit-input-tokens-limit", "ratelimit-policy", "x-other"}
    theirs = {
        headers[name] for name in said if name in headers and headers[name] in {"99", "98", "97", "96", "x", "secret"}
    }
    assert theirs == passed
    assert headers.get("x-ratelimit-limit-requests") == ("5" if "rpm" in limits else "99" if "99" in passed else None)


def test_what_was_charged_is_settled_by_what_was_used(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port), rate_limits={"tpm": 2000})) as here:
        plain = here.chat(max_tokens=1500)
        streamed = here.chat(max_tokens=1500, stream=True)
        after = here.chat(max_tokens=1500)
        used = here.metric("llmproxy_limit_used", kind="tpm")
        tokens = here.metric("llmproxy_tokens_total")
        too_many = here.chat(max_tokens=1990)
        hidden = here.chat(max_tokens=1990, max_completion_tokens=1)
        best = here.post({"model": "echo", "prompt": "hi", "max_tokens": 10, "best_of": 199}, "/v1/completions")
        failed = here.chat('{"echo": {"status": 400}}', max_tokens=100)
        still_used = here.metric("llmproxy_limit_used", kind="tpm")

    assert [plain.status_code, streamed.status_code, after.status_code] == [200] * 3
    assert b'"usage":{' not in streamed.content
    assert used == tokens == 3 * plain.json()["usage"]["total_tokens"]
    assert too_many.status_code == 429
    assert "tpm" in too_many.json()["error"]["message"]
    assert (hidden.status_code, best.status_code) == (429, 429), "a bound that another field hides, or is beside"
    assert failed.status_code == 400
    assert still_used == used


def test_a_call_over_maxparallel_waits_its_turn_when_it_may(echo: Echo, tmp_path: Path) -> None:
    told = document(
        deployment(echo.port),
        rate_limits={"max_parallel": 1},
        overflow={"mode": "Queue", "max_queue_time_s": 20},
    )
    with gateway(tmp_path, told) as here, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: here.chat(SLOW), range(3)))
    assert [a.status_code for a in answers] == [200] * 3
    assert echo.stats()["max_in_flight"] == 1


def test_a_wait_has_an_end(echo: Echo, tmp_path: Path) -> None:
    told = document(
        deployment(echo.port), rate_limits={"max_parallel": 1}, overflow={"mode": "Queue", "max_queue_time_s": 0.2}
    )
    with gateway(tmp_path, told) as here, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: here.chat(SLOW), range(2)))
    assert sorted(a.status_code for a in answers) == [200, 429]


def test_who_leaves_the_line_frees_the_place(echo: Echo, tmp_path: Path) -> None:
    told = document(
        deployment(echo.port), rate_limits={"max_parallel": 1}, overflow={"mode": "Queue", "max_queue_time_s": 30}
    )
    with gateway(tmp_path, told) as here:
        first = threading.Thread(target=here.chat, args=(json.dumps({"echo": {"delay_ms": 2500}}),))
        first.start()
        until(lambda: echo.stats()["in_flight"] == 1)
        with pytest.raises(httpx2.TimeoutException):
            here.post({"model": "echo", "messages": []}, timeout_s=0.5)
        until(lambda: here.metric("llmproxy_limit_waiting") == 0)
        last = here.chat()
        first.join()
    assert last.status_code == 200
    assert echo.stats()["calls"] == 2


def test_who_leaves_a_stream_frees_the_slot(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port), rate_limits={"max_parallel": 1})) as here:
        body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": LONG}]}
        with httpx2.stream("POST", here.url + PATH, json=body, timeout=20) as answer:
            parts = answer.iter_raw()
            next(parts)
            held = here.metric("llmproxy_limit_used", kind="maxParallel")
        assert held == 1
        until(lambda: here.metric("llmproxy_limit_used", kind="maxParallel") == 0)
        until(lambda: here.metric("llmproxy_requests_in_flight") == 0)
        assert here.chat().status_code == 200
        assert here.metric("llmproxy_client_disconnects_total") == 1
