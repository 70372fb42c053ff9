"""What a client sees of errors, limits and breaks, in its own protocol, with the SDKs that people use."""

import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from integration.protocols.conftest import Rig
from integration.protocols.matrix import CLIENTS, covers
from integration.protocols.users import Question
from llmproxy.shipper.spans.agent_lightning import spans_of
from llmproxy.shipper.spool.records import SpoolRecord

RATE_LIMIT: Any = (openai.RateLimitError, anthropic.RateLimitError)
STATUS: Any = (openai.APIStatusError, anthropic.APIStatusError)
IN_A_STREAM: Any = (openai.APIError, anthropic.APIStatusError)


@covers("client error")
def test_client_error(rig: Rig, client: str, upstream: str) -> None:
    asked = Question("x", max_tokens=-1 if upstream == "anthropic" else 400)
    body = rig.user(client).body(rig.model(upstream), asked)
    if upstream == "anthropic":
        body["stop_sequences" if client == "anthropic" else "stop"] = [" "]
        words = "each stop sequence must contain non-whitespace"
        body["max_tokens"] = 5
    else:
        body["stop" if client == "openai" else "stop_sequences"] = [""]
        words = "stop must be a string or a list of strings"
    answer = rig.post(client, body)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert words in error["message"]
    assert rig.seen(upstream)["calls"] == 1
    if client == "anthropic":
        assert error["type"] == "invalid_request_error"
    elif upstream == "anthropic":
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


@covers("server error")
def test_server_error(rig: Rig, client: str, upstream: str) -> None:
    said = rig.user(client).ask(rig.model(upstream, "spare"), Question("x"))
    assert said.text.endswith("x")


@covers("fallback")
@pytest.mark.parametrize("stream", [False, True])
def test_fallback(rig: Rig, client: str, upstream: str, *, stream: bool) -> None:
    """*upstream* is the one that is away."""
    other = "openai" if upstream == "anthropic" else "anthropic"
    user = rig.user(client, rollout="/rollout/ro-1/attempt/at-1")
    said = (user.stream if stream else user.ask)(rig.model(upstream, "falls"), Question("hi"))

    assert said.text.endswith("hi")
    call = rig.recorder.last()
    tried = [(item.deployment, item.error) for item in call.tries]
    assert tried == [*[(f"falls-{upstream}/0", "connect")] * 2, (f"m-{other}/0", "")]
    assert (call.model, call.provider, call.status) == (f"falls-{upstream}", other, 200)
    root = spans_of(SpoolRecord(gateway="g", call=call, sequence_id=1, late=False), "Full")[0]
    assert root.attributes["llmproxy.deployment"] == f"m-{other}/0"
    assert root.attributes["llmproxy.tries"] == 3
    assert [event.attributes["deployment"] for event in root.events] == [deployment for deployment, _ in tried]


@covers("overloaded")
def test_overloaded(rig: Rig, client: str, upstream: str) -> None:
    status = 529 if upstream == "anthropic" else 503
    for way in (rig.user(client).ask, rig.user(client).stream):
        with pytest.raises(STATUS) as seen:
            way(rig.model(upstream), Question(rig.directive(upstream, status=status)))
        assert seen.value.status_code == status
        if client == "anthropic":
            assert isinstance(seen.value.body, dict)
            assert seen.value.body["error"]["type"] == "overloaded_error"
    assert rig.seen(upstream)["calls"] == 4  # each was tried twice


@covers("upstream back-off")
def test_upstream_back_off(rig: Rig, client: str, upstream: str) -> None:
    user = rig.user(client, max_retries=1)
    began = time.monotonic()
    with pytest.raises(RATE_LIMIT) as seen:
        user.ask(rig.model(upstream), Question(rig.directive(upstream, status=429, retry_after="1")))
    assert time.monotonic() - began > 0.9  # the SDK has waited as it was asked
    assert seen.value.response.headers["retry-after"] == "1"
    assert rig.seen(upstream)["calls"] == 2


@covers("limit back-off")
def test_limit_back_off(rig: Rig, client: str, upstream: str) -> None:
    model, impatient = rig.model(upstream, "limited"), rig.user(client)
    with pytest.raises(RATE_LIMIT) as seen:
        [impatient.ask(model, Question("x")) for _ in range(50)]
    headers = seen.value.response.headers
    assert 0 < float(headers["retry-after-ms"]) <= 1100
    assert int(headers["retry-after"]) in {1, 2}
    error = seen.value.response.json()["error"]
    assert error["type"] == {"openai": "requests", "anthropic": "rate_limit_error"}[client]
    assert "rps" in error["message"]
    before = rig.seen(upstream)["calls"]
    assert rig.user(client, max_retries=4).ask(model, Question("x")).text.endswith("x")
    assert rig.seen(upstream)["calls"] == before + 1


@covers("limit headers")
def test_limit_headers(rig: Rig, client: str, upstream: str) -> None:
    time.sleep(1.1)  # the limit of the tests before is free again
    body = rig.user(client).body(rig.model(upstream, "limited"), Question("x"))
    headers = rig.post(client, body).headers
    ours, theirs = ("x-ratelimit-", "anthropic-ratelimit-")[:: 1 if client == "openai" else -1]
    names = ("limit-requests", "remaining-requests", "reset-requests")
    if client == "anthropic":
        names = ("requests-limit", "requests-remaining", "requests-reset")
    assert headers[ours + names[0]] == "1"
    assert headers[ours + names[1]] == "0"
    assert headers[ours + names[2]]
    assert not [name for name in headers if name.startswith(theirs) and "requests" in name]


@covers("broken stream")
def test_broken_stream(rig: Rig, client: str, upstream: str) -> None:
    how = rig.directive(upstream, say="one two three four five six seven", die=2)
    got: list[Any] = []
    with pytest.raises(IN_A_STREAM, match="closed the connection"):
        got.extend(rig.user(client).chunks(rig.model(upstream), Question(how)))
    assert got  # what came before the break has been forwarded


@covers("error in a stream")
def test_error_in_a_stream(rig: Rig, client: str, upstream: str) -> None:
    how = rig.directive(upstream, say="one two three four", error_after_events=4)
    got: list[Any] = []
    with pytest.raises(IN_A_STREAM, match="Overloaded"):
        got.extend(rig.user(client).chunks(rig.model(upstream), Question(how)))
    assert got


@covers("client leaves")
def test_client_leaves(rig: Rig, client: str, upstream: str) -> None:
    text = " ".join(["word"] * 300)
    how = rig.directive(upstream, say=text, chunk_ms=100)
    body = rig.user(client).body(rig.model(upstream), Question(how)) | {"stream": True}
    path = "/v1/chat/completions" if client == "openai" else "/v1/messages"
    with httpx2.stream("POST", rig.base + path, json=body, timeout=60) as answer:
        next(answer.iter_raw())
    left = time.monotonic()
    while not rig.seen(upstream)["client_gone"]:
        assert time.monotonic() - left < 10
        time.sleep(0.05)


Row = tuple[str, dict[str, Any], int, tuple[str, str], str, str]
HI = [{"role": "user", "content": "hi"}]
FAULTS: list[Row] = [
    # what, the request, status, OpenAI's type and code, Anthropic's type, text
    (
        "unknown model",
        {"model": "nope"},
        404,
        ("invalid_request_error", "model_not_found"),
        "not_found_error",
        "model 'nope' is not served here",
    ),
    (
        "no model",
        {"model": ...},
        400,
        ("invalid_request_error", "invalid_request"),
        "invalid_request_error",
        "model is missing",
    ),
    (
        "no JSON",
        {"raw": b"{"},
        400,
        ("invalid_request_error", "invalid_request"),
        "invalid_request_error",
        "must be a JSON object",
    ),
    (
        "model twice",
        {"raw": b'{"model":"m-vllm","model":"m-vllm"}'},
        400,
        ("invalid_request_error", "invalid_request"),
        "invalid_request_error",
        "is there twice",
    ),
    (
        "wrong type",
        {"stream": "yes"},
        400,
        ("invalid_request_error", "invalid_request"),
        "invalid_request_error",
        "stream must be true or false",
    ),
    (
        "no such path",
        {"path": "/v1/nothing"},
        404,
        ("invalid_request_error", "unknown_url"),
        "not_found_error",
        "is not served here",
    ),
    (
        "wrong method",
        {"method": "GET"},
        405,
        ("invalid_request_error", "method_not_allowed"),
        "invalid_request_error",
        "takes POST, not GET",
    ),
    (
        "dead upstream",
        {"model": "dead-vllm"},
        502,
        ("upstream_error", "upstream_unavailable"),
        "api_error",
        "cannot be reached",
    ),
    (
        "dead Anthropic",
        {"model": "dead-anthropic"},
        502,
        ("upstream_error", "upstream_unavailable"),
        "api_error",
        "cannot be reached",
    ),
    (
        "slow upstream",
        {"model": "slow-vllm", "messages": [{"role": "user", "content": '{"echo": {"delay_ms": 5000}}'}]},
        504,
        ("upstream_error", "upstream_timeout"),
        "timeout_error",
        "did not answer within 0.3 s",
    ),
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_faults(rig: Rig, client: str, row: Row) -> None:
    _, asked, status, (kind, code), anthropic_kind, words = row
    default = "/v1/chat/completions" if client == "openai" else "/v1/messages"
    body = {"model": "m-vllm", "max_tokens": 5, "messages": HI, **asked}
    body = {k: v for k, v in body.items() if v is not ... and k not in {"raw", "path", "method"}}
    version = {"anthropic-version": "2026-10-21"} if client == "anthropic" else {}
    answer = httpx2.request(
        asked.get("method", "POST"),
        rig.base + asked.get("path", default),
        headers=version,
        timeout=60,
        **({"content": asked["raw"]} if "raw" in asked else {"json": body}),
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert words in told["error"]["message"]
    if client == "anthropic":
        assert told["type"] == "error"
        assert told["error"]["type"] == anthropic_kind
        assert told["error"].keys() == {"type", "message"}
    else:
        assert (told["error"]["type"], told["error"]["code"]) == (kind, code)


@pytest.mark.parametrize(
    ("client", "model", "change", "field"),
    [
        ("anthropic", "m-vllm", {"max_tokens": None}, "max_tokens"),
        ("anthropic", "m-vllm", {"mcp_servers": [{}]}, "mcp_servers"),
        (
            "anthropic",
            "m-vllm",
            {"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]},
            "messages.0.content.0",
        ),
        ("openai", "m-anthropic", {"logprobs": True}, "logprobs"),
        ("openai", "m-anthropic", {"n": 2}, "n"),
    ],
)
def test_what_cannot_be_mapped_is_refused_by_its_name(
    rig: Rig, client: str, model: str, change: dict[str, Any], field: str
) -> None:
    answer = rig.post(client, {"model": model, "max_tokens": 5, "messages": HI, **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{field}: ")
    if client == "openai":
        assert answer.json()["error"]["param"] == field
