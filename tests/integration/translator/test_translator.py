"""OpenAI's protocol in, Gemini's out, and back without a loss."""

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from integration.translator.conftest import (
    KEY,
    KEY_VARIABLE,
    PRIVATE,
    Rig,
    document,
    translating,
    translator_command,
)
from llmproxy import contract
from procs import Process, running

BREAKERS = "a\u2028b\u2029c\u0085d \u2028\u2028 ä€😀 end"


def events(answer: httpx2.Response) -> list[Any]:
    parts = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def told(how: dict[str, object]) -> str:
    return json.dumps({"gemini": how})


def test_a_plain_answer_has_openais_shape_and_the_providers_text(rig: Rig) -> None:
    answer = rig.chat(BREAKERS)

    made = answer.json()
    assert (answer.status_code, made["object"], made["model"]) == (200, "chat.completion", "gemini-2.0-flash")
    [choice] = made["choices"]
    assert choice["message"] == {"role": "assistant", "content": BREAKERS}
    assert choice["finish_reason"] == "stop"
    assert made["usage"]["total_tokens"] == made["usage"]["prompt_tokens"] + made["usage"]["completion_tokens"] > 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_prefix_calls_the_requested_model(rig: Rig, *, stream: bool) -> None:
    answer = rig.chat("hi", "prefix/0", stream=stream)

    assert answer.status_code == 200
    assert '"model":"gemini-2.0-flash"' in answer.text.replace('"model": ', '"model":')
    assert rig.chat("hi", "prefix/0", model="gemini-0").status_code == 404


@pytest.mark.parametrize("size", [None, 1, 2, 3, 5, 7])
def test_a_stream_loses_no_character_wherever_its_bytes_are_cut(rig: Rig, size: int | None) -> None:
    how: dict[str, object] = {"text": BREAKERS} | ({"chunk_bytes": size} if size else {})

    parts = events(rig.chat(told(how), stream=True, stream_options={"include_usage": True}))

    assert parts[-1] == "[DONE]"
    texts = [choice["delta"].get("content") or "" for p in parts[:-1] for choice in p["choices"]]
    assert "".join(texts) == BREAKERS
    assert [c["finish_reason"] for p in parts[:-1] for c in p["choices"]][-1] == "stop"
    assert parts[-2]["choices"] == []
    assert parts[-2]["usage"]["total_tokens"] > 0


def test_the_sdk_reads_both(rig: Rig) -> None:
    http = httpx2.Client(transport=rig.client._transport)
    client = openai.OpenAI(
        base_url="http://translator/v1",
        api_key="none",
        http_client=http,
        max_retries=0,
        default_headers={"x-llmproxy-deployment": "g/0"},
    )

    plain = client.chat.completions.create(model="g", messages=[{"role": "user", "content": BREAKERS}])
    chunks = list(
        client.chat.completions.create(model="g", messages=[{"role": "user", "content": BREAKERS}], stream=True)
    )

    assert plain.choices[0].message.content == BREAKERS
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == BREAKERS


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "says the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_in_parallel_and_their_results_understood(rig: Rig, *, stream: bool) -> None:
    said = 'call weather {"city": "Zürich\u2028"}\ncall weather {"city": "Bern"}'

    answer = rig.chat(said, tools=[WEATHER], stream=stream)

    if stream:
        deltas = [c["delta"] for p in events(answer)[:-1] for c in p["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        finish = [c["finish_reason"] for p in events(answer)[:-1] for c in p["choices"]][-1]
        assert [call["index"] for call in calls] == [0, 1]
    else:
        [choice] = answer.json()["choices"]
        calls, finish = choice["message"]["tool_calls"], choice["finish_reason"]
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"city": "Zürich\u2028"}, {"city": "Bern"}]
    assert finish == "tool_calls"
    messages = [
        {"role": "user", "content": said},
        {"role": "assistant", "content": None, "tool_calls": [{k: v for k, v in calls[0].items() if k != "index"}]},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sunny"},
    ]
    second = rig.chat("", tools=[WEATHER], messages=messages)
    assert "sunny" in second.json()["choices"][0]["message"]["content"]


def test_embeddings_are_translated(rig: Rig) -> None:
    answer = rig.client.post(
        "/v1/embeddings",
        json={"model": "e", "input": ["a", "b"]},
        headers={"x-llmproxy-deployment": "e/0"},
    )

    made = answer.json()
    assert [len(item["embedding"]) for item in made["data"]] == [8, 8]
    assert made["usage"]["prompt_tokens"] == made["usage"]["total_tokens"]


def test_params_are_defaults_and_the_caller_wins(rig: Rig) -> None:
    rig.chat("hi", deployment="params/0")
    assert _config(rig)["temperature"] == 0.25

    rig.chat("hi", deployment="params/0", temperature=0.75, max_tokens=9)
    assert (_config(rig)["temperature"], _config(rig)["max_output_tokens"]) == (0.75, 9)


def _config(rig: Rig) -> dict[str, Any]:
    last: Any = rig.seen()["last"]
    config: dict[str, Any] = last["body"]["generationConfig"]
    return config


def test_a_deployment_without_a_key_sends_none(rig: Rig) -> None:
    answer = rig.chat("hi", deployment="keyless/0")

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "PERMISSION_DENIED"


def test_a_wrong_name_of_the_model_is_the_providers_404(rig: Rig) -> None:
    answer = rig.chat("hi", deployment="unknown/0")

    assert answer.status_code == 404
    assert "ListModels" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_an_error_keeps_the_upstreams_status_and_is_not_tried_again(rig: Rig, status: int, *, stream: bool) -> None:
    answer = rig.chat(told({"status": status, "retry_after": 7}), stream=stream)

    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith("gemini: ")
    assert rig.seen()["calls"] == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 429])
def test_what_the_provider_says_of_its_limits_is_passed_on(rig: Rig, status: int, *, stream: bool) -> None:
    said = {"x-ratelimit-remaining-requests": "7", "ratelimit-reset": "3", "x-request-id": "r-1", "x-secret": "s"}

    answer = rig.chat(told({"status": status, "headers": said}), stream=stream)

    assert answer.status_code == status
    assert {name: answer.headers[name] for name in said if name in answer.headers} == {
        name: value for name, value in said.items() if name != "x-secret"
    }
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_googles_retry_info_is_told_as_retry_after(rig: Rig) -> None:
    answer = rig.chat(told({"status": 429, "retry_delay": "17s"}))

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "17")


def test_an_upstream_that_cannot_be_reached_is_a_502_that_says_so(rig: Rig) -> None:
    answer = rig.chat("hi", deployment="dead/0")

    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_is_too_slow_is_a_504(rig: Rig, *, stream: bool) -> None:
    answer = rig.chat(told({"delay_ms": 5000}), deployment="slow/0", stream=stream)

    assert answer.status_code == 504
    assert "did not answer in time" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("how", "status"),
    [
        pytest.param({"chunks": 5, "die_after_chunks": 2}, "upstream_unavailable", id="the connection breaks"),
        pytest.param({"chunks": 9, "chunk_ms": 200}, "upstream_timeout", id="the deadline passes"),
        pytest.param({"chunks": 5, "error_after_chunks": 2}, None, id="an error comes in the stream"),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error_and_never_with_done(
    rig: Rig, how: dict[str, object], status: str | None
) -> None:
    answer = rig.chat(told(how), deployment="slow/0", stream=True)

    parts = events(answer)
    assert answer.status_code == 200
    assert parts[0]["choices"][0]["delta"]["content"].startswith("piece 0")
    assert "[DONE]" not in parts
    assert set(parts[-1]) == {"error"}
    assert status is None or parts[-1]["error"]["code"] == status


def test_a_caller_who_leaves_ends_the_call_at_the_provider(rig: Rig) -> None:
    body = {
        "model": "g",
        "stream": True,
        "messages": [{"role": "user", "content": told({"chunks": 500, "chunk_ms": 50})}],
    }
    with rig.client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"x-llmproxy-deployment": "g/0"}
    ) as answer:
        next(answer.iter_lines())

    for _ in range(100):
        if rig.seen()["client_gone"]:
            break
        time.sleep(0.05)

    assert (rig.seen()["client_gone"], rig.seen()["in_flight"]) == (1, 0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({"api_base": "http://elsewhere"}, "api_base", id="an address"),
        pytest.param({"api_key": "x"}, "api_key", id="a key"),
        pytest.param({"num_retries": 9}, "num_retries", id="retries"),
        pytest.param({"mock_response": "x"}, "mock_response", id="a mock"),
        pytest.param({"logit_bias": {"1": 2}}, None, id="what the provider cannot do"),
    ],
)
def test_what_cannot_be_translated_is_refused_and_not_sent(rig: Rig, body: dict[str, Any], param: str | None) -> None:
    answer = rig.chat("hi", **body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "drop_params" not in answer.text
    assert rig.seen()["calls"] == 0


def test_what_the_provider_cannot_do_is_left_out_if_that_is_asked_for(gemini: Process, tmp_path: Path) -> None:
    with translating(gemini, tmp_path, contract.Translation(drop_params=True)) as rig:
        httpx2.post(f"http://127.0.0.1:{gemini.port}/stats/reset")

        assert rig.chat("hi", logit_bias={"1": 2}).status_code == 200

        assert rig.chat("hi", api_base="http://elsewhere").status_code == 400  # not what nobody knows
        assert rig.seen()["calls"] == 1


@pytest.mark.parametrize("deployment", ["native/0", "nobody/0", ""])
def test_only_deployments_that_need_translation_are_served(rig: Rig, deployment: str) -> None:
    answer = rig.chat("hi", deployment=deployment)

    assert answer.status_code == 404
    assert "g/0" in answer.json()["error"]["message"]


def test_neither_prompts_nor_keys_are_printed(rig: Rig) -> None:
    rig.chat(PRIVATE)
    rig.chat(f'{{"gemini": {{"status": 500, "text": "{PRIVATE}"}}}}', stream=True)
    rig.chat(PRIVATE, logit_bias={"1": 2})

    assert PRIVATE not in rig.translator.output
    assert KEY not in rig.translator.output
    assert "call_failed" in rig.translator.output


def test_it_says_that_it_lives(rig: Rig) -> None:
    assert rig.client.get("/healthz").json() == {"status": "ok"}


def test_at_its_end_calls_in_flight_are_finished_and_the_socket_is_gone(gemini: Process, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(document(gemini.port).to_json())
    answers: list[httpx2.Response] = []
    command = translator_command(tmp_path / "config.json", tmp_path)
    with running(*command, ready="translator_ready", env={KEY_VARIABLE: KEY}) as process:
        transport = httpx2.HTTPTransport(uds=str(tmp_path / "translator.sock"))
        with httpx2.Client(transport=transport, base_url="http://translator", timeout=30) as client:
            rig = Rig(process, gemini, client)
            how = told({"chunks": 8, "chunk_ms": 150})
            call = threading.Thread(target=lambda: answers.append(rig.chat(how, stream=True)))
            call.start()
            while not rig.seen()["in_flight"]:
                time.sleep(0.02)
            process.signal(signal.SIGTERM)
            call.join()
            code = process.wait()

    assert code == 0
    assert events(answers[0])[-1] == "[DONE]"
    assert not (tmp_path / "translator.sock").exists()


def test_a_socket_that_a_killed_process_left_is_no_obstacle(gemini: Process, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(document(gemini.port).to_json())
    command = translator_command(tmp_path / "config.json", tmp_path)
    with running(*command, ready="translator_ready", env={KEY_VARIABLE: KEY}) as first:
        first.signal(signal.SIGKILL)
        first.wait()
    assert (tmp_path / "translator.sock").exists()

    with running(*command, ready="translator_ready", env={KEY_VARIABLE: KEY}) as second:
        transport = httpx2.HTTPTransport(uds=str(tmp_path / "translator.sock"))
        with httpx2.Client(transport=transport, base_url="http://translator") as client:
            assert client.get("/healthz").status_code == 200
        assert second.end() == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param('{"version": 9}', "version", id="another version"),
        pytest.param("{", "not JSON", id="no JSON"),
        pytest.param(None, KEY_VARIABLE, id="a key that is not there"),
    ],
)
def test_a_document_that_cannot_be_used_ends_it_with_2_and_names_the_field(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    (tmp_path / "config.json").write_text(document(1).to_json() if text is None else text)

    with running(*translator_command(tmp_path / "config.json", tmp_path)) as process:
        code = process.wait()
        output = process.output

    assert code == 2
    assert complaint in output
