"""What goes to litellm, what is made of its answers, and what of its failures."""

import json
from typing import Any

import pytest

from llmproxy.translator import errors, fields, shapes

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def chat(**more: object) -> bytes:
    return json.dumps({**CHAT, **more}).encode()


def test_fields_of_the_model_go_through_and_params_are_their_defaults() -> None:
    asked = fields.read(chat(temperature=0.5, return_token_ids=True, top_p=None), fields.CHAT, {"top_p": 1, "seed": 2})

    assert asked == {"messages": CHAT["messages"], "temperature": 0.5, "top_p": 1, "seed": 2}


@pytest.mark.parametrize(
    "name",
    ["api_base", "api_key", "base_url", "mock_response", "num_retries", "callbacks", "extra_headers", "client", "foo"],
)
def test_what_is_not_the_models_is_refused_by_name(name: str) -> None:
    with pytest.raises(fields.FieldError, match=name) as refused:
        fields.read(chat(**{name: "x"}), fields.CHAT, {})

    assert refused.value.param == name


def test_a_field_that_the_deployments_params_name_is_known() -> None:
    assert fields.read(chat(safety_settings=[]), fields.CHAT, {"safety_settings": [1]})["safety_settings"] == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(b"{", "not JSON", id="no JSON"),
        pytest.param(b"3", "must be a JSON object", id="no object"),
        pytest.param(b"{}", "messages is missing", id="no messages"),
        pytest.param(b'{"messages": {"a": 1}}', "must be a list", id="no list"),
        pytest.param(b'{"messages": ["a"]}', "messages.0", id="no message"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(fields.FieldError, match=complaint):
        fields.read(body, fields.CHAT, {})


def error_of(refusal: errors.ErrorResponse) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(refusal.body())["error"]
    return error


def test_the_upstreams_status_message_and_retry_after_are_kept() -> None:
    body = b'{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}'

    made = errors.upstream_refused("gemini", 503, {"retry-after": "3", "server": "x"}, body)

    assert (made.status, made.headers) == (503, (("retry-after", "3"),))
    assert error_of(made) == {
        "message": "gemini: The model is overloaded.",
        "type": "upstream_error",
        "param": None,
        "code": "UNAVAILABLE",
    }


def test_googles_retry_info_becomes_retry_after() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "16.2s"}
    body = json.dumps({"error": {"code": 429, "message": "quota", "details": [{"a": 1}, info]}}).encode()

    made = errors.upstream_refused("gemini", 429, {}, body)

    assert dict(made.headers) == {"retry-after": "17", "retry-after-ms": "16200"}


@pytest.mark.parametrize(
    "body", [b"<html>bad gateway</html>", b"", b'"text"', b'{"message": "bad"}', b'[{"error": "bad"}]', b"\xff\xfe"]
)
def test_any_body_of_an_error_gives_a_message(body: bytes) -> None:
    made = errors.upstream_refused("cohere", 502, {}, body)

    assert error_of(made)["message"].startswith("cohere: ")
    assert error_of(made)["code"] == "upstream_unavailable"


def test_what_cannot_be_translated_is_the_callers_error_without_litellms_advice() -> None:
    told = "litellm.UnsupportedParamsError: gemini does not support parameters: ['x']. To drop these, set `y`"

    made = errors.not_sent("gemini", 400, told)

    assert (made.status, made.message) == (400, "gemini: gemini does not support parameters: ['x'].")


def test_what_fails_before_anything_was_sent_is_a_400_without_a_traceback() -> None:
    message = "Invalid image received - file:///x.png\nTraceback (most recent call last):\n  File main.py"
    for status in (None, 500):
        response = errors.not_sent("gemini", status, message)
        assert (response.status, response.message) == (400, "gemini: Invalid image received - file:///x.png")


def test_no_answer_is_502_and_a_late_one_504() -> None:
    assert errors.upstream_failed("gemini", "cannot be reached: refused").status == 502
    assert errors.upstream_failed("gemini", "timeout").status == 504


def test_a_chunk_with_the_usage_has_no_choices() -> None:
    part = {"id": "1", "choices": [{"index": 0, "delta": {}}], "usage": {"total_tokens": 3}}

    assert shapes.chunk(part, "m") == {"id": "1", "model": "m", "choices": [], "usage": {"total_tokens": 3}}


def test_fields_that_only_litellm_knows_are_taken_out() -> None:
    answer = {
        "id": "1",
        "vertex_ai_safety_results": [],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "images": []}}],
    }

    made = shapes.completion(answer, "m")

    assert "vertex_ai_safety_results" not in made
    assert made["choices"][0]["message"] == {"role": "assistant", "content": None}


def test_what_is_sent_has_one_line_and_means_the_same() -> None:
    value = {"a": "x\u2028y\u0085\u2029 ä"}

    sent = shapes.encode(value)

    assert len(sent.decode().splitlines()) == 1
    assert json.loads(sent) == value
