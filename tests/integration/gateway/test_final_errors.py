"""Errors that no wait heals, by the server's word, and how long clients are told to wait."""

import json
from pathlib import Path

import pytest

from integration.gateway.conftest import Stage, deployment, document, gateway, scripted
from integration.gateway.test_begun import sends, tries

QUOTA = {
    "error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}
}


def error(status: str, body: object, *lines: str) -> bytes:
    data = json.dumps(body).encode()
    head = "\r\n".join((f"HTTP/1.1 {status}", "Content-Type: application/json", *lines, f"Content-Length: {len(data)}"))
    return head.encode() + b"\r\n\r\n" + data


@pytest.mark.parametrize(
    "answer",
    [
        error("429 Too Many Requests", QUOTA),
        error("503 Service Unavailable", {"error": {"message": "no"}}, "x-should-retry: false"),
    ],
)
def test_what_the_server_says_is_final_is_passed_on_at_once(stage: Stage, answer: bytes) -> None:
    stage.play(sends(answer))
    status = answer[9:12].decode()
    before = tries(stage, status) + tries(stage, f"http_{status}")
    response = stage.chat()
    assert response.status_code == int(status)
    assert response.content == answer.partition(b"\r\n\r\n")[2]
    assert tries(stage, status) + tries(stage, f"http_{status}") == before + 1


def test_a_model_without_quota_falls_back_after_one_attempt(tmp_path: Path) -> None:
    good = error("200 OK", {"choices": [{"message": {"role": "assistant", "content": "hi"}}]})
    with scripted(sends(error("429 Too Many Requests", QUOTA))) as empty, scripted(sends(good)) as other:
        told = document(deployment(empty))
        told["models"][0]["fallbacks"] = ["other"]
        told["models"].append({"name": "other", "deployments": [deployment(other, "other/0")]})
        with gateway(tmp_path, told) as here:
            assert here.chat().status_code == 200
            assert here.metric("llmproxy_upstream_requests_total", deployment="echo/0") == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("retry-after: 20", "20"),
        ("retry-after: 86400", "60"),
        ("retry-after: nan", None),
        ("retry-after: Mon, 01 Jan 0000 00:00:00 GMT", None),
    ],
)
def test_clients_are_told_to_wait_a_minute_at_most(stage: Stage, line: str, told: str | None) -> None:
    stage.play(sends(error("429 Too Many Requests", QUOTA, line)))
    assert stage.chat().headers.get("retry-after") == told
