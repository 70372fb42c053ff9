"""The echo server as a process, asked by the SDK that its users have, and by hand where bytes matter."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from llmproxy.echo import tokens
from procs import Process, running, started

Json = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with running("llmproxy.echo", "--port", "0", ready="ready on") as process:
        yield process


@pytest.fixture
def base(server: Process) -> str:
    url = f"http://127.0.0.1:{server.port}"
    httpx2.post(f"{url}/stats/reset").raise_for_status()
    return url


@pytest.fixture
def sdk(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def stats(base: str) -> Json:
    seen: Json = httpx2.get(f"{base}/stats").json()
    return seen


def events(text: str) -> list[Json]:
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]


def test_it_repeats_the_last_user_message_and_says_what_it_is(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="any", messages=[*user("first"), *user("hello\u2028there")])

    text = answer.choices[0].message.content or ""
    assert text.endswith("You said: hello\u2028there")
    assert "not a language model" in text
    assert (answer.model, answer.choices[0].finish_reason) == ("any", "stop")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(tokens.pieces(text)) + 1


def test_a_stream_says_the_same_as_a_plain_answer(sdk: openai.OpenAI) -> None:
    plain = sdk.chat.completions.create(model="m", messages=user("a b  c\n d"))

    stream = sdk.chat.completions.create(
        model="m", messages=user("a b  c\n d"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert len({c.id for c in chunks}) == 1


def test_without_include_usage_a_stream_tells_no_usage(base: str) -> None:
    body = {"model": "m", "stream": True, "messages": user("x")}

    answer = httpx2.post(f"{base}/v1/chat/completions", json=body)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert all("usage" not in event for event in events(answer.text))


def test_max_tokens_cuts_the_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="m", messages=user("x"), max_tokens=3)

    assert answer.choices[0].message.content == "This is the"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_a_stop_sequence_ends_the_answer_and_is_named_as_vllm_does(base: str) -> None:
    body = {"model": "m", "stop": ["nowhere", "You said"], "messages": user("x")}

    choice = httpx2.post(f"{base}/v1/chat/completions", json=body).json()["choices"][0]
    ending = events(httpx2.post(f"{base}/v1/chat/completions", json={**body, "stream": True}).text)[-1]["choices"][0]

    assert choice["message"]["content"] == "This is the echo model server, not a language model. "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "You said")
    assert (ending["finish_reason"], ending["stop_reason"]) == ("stop", "You said")


def test_reasoning_comes_before_the_answer(base: str) -> None:
    body = {"model": "m", "messages": user(json.dumps({"echo": {"think": "Hm. Well.", "say": "y"}}))}

    message = httpx2.post(f"{base}/v1/chat/completions", json=body).json()["choices"][0]["message"]
    streamed = events(httpx2.post(f"{base}/v1/chat/completions", json={**body, "stream": True}).text)
    deltas = [c["choices"][0]["delta"] for c in streamed]

    assert message["reasoning_content"] == "Hm. Well."
    assert message["content"].endswith("You said: y")
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm. Well."
    assert "".join(d.get("content", "") for d in deltas) == message["content"]


def test_token_ids_and_logprobs_are_where_vllm_puts_them(base: str) -> None:
    body = {"model": "m", "messages": user("hi"), "return_token_ids": True, "logprobs": True}

    plain = httpx2.post(f"{base}/v1/chat/completions", json=body).json()
    streamed = events(httpx2.post(f"{base}/v1/chat/completions", json={**body, "stream": True}).text)

    choice = plain["choices"][0]
    said = tokens.pieces(choice["message"]["content"])
    assert choice["token_ids"] == [*map(tokens.token_id, said), tokens.END]
    assert [item["token"] for item in choice["logprobs"]["content"]] == [*said, ""]
    assert plain["prompt_token_ids"] == tokens.token_ids("<user> hi")
    assert streamed[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    assert all("prompt_token_ids" not in chunk for chunk in streamed[1:])
    assert [i for c in streamed for i in c["choices"][0].get("token_ids", [])] == choice["token_ids"]
    logprobs = [c["choices"][0]["logprobs"] for c in streamed]
    assert [item for part in logprobs if part for item in part["content"]] == choice["logprobs"]["content"]


def test_token_ids_are_not_told_unasked(base: str) -> None:
    answer = httpx2.post(f"{base}/v1/chat/completions", json={"model": "m", "messages": user("hi")})

    assert "token_ids" not in answer.text


WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


def test_a_line_that_calls_a_tool_is_answered_by_the_call_also_in_parallel(sdk: openai.OpenAI) -> None:
    said = user('call weather {"city": "Zürich"}\ncall clock {}')

    plain = sdk.chat.completions.create(model="m", messages=said, tools=[WEATHER, CLOCK])
    chunks = list(sdk.chat.completions.create(model="m", messages=said, tools=[WEATHER, CLOCK], stream=True))

    calls: list[Any] = list(plain.choices[0].message.tool_calls or [])
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("weather", {"city": "Zürich"}),
        ("clock", {}),
    ]
    assert plain.choices[0].finish_reason == "tool_calls"
    built: dict[int, list[str]] = {}
    for delta in (call for c in chunks for call in c.choices[0].delta.tool_calls or ()):
        assert delta.function is not None
        if delta.id:
            built[delta.index] = [delta.id, delta.function.name or "", ""]
        built[delta.index][2] += delta.function.arguments or ""
    assert list(built.values()) == [[c.id, c.function.name, c.function.arguments] for c in calls]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_tools_result_is_repeated_and_not_answered_by_another_call(sdk: openai.OpenAI) -> None:
    messages: Any = [*user("call clock {}"), {"role": "tool", "tool_call_id": "1", "content": "noon"}]

    answer = sdk.chat.completions.create(model="m", messages=messages, tools=[CLOCK])

    assert (answer.choices[0].message.content or "").endswith("noon")


def test_completions_take_texts_and_token_ids(sdk: openai.OpenAI, base: str) -> None:
    texts = sdk.completions.create(model="m", prompt=["one", "two"], max_tokens=50)
    ids = httpx2.post(
        f"{base}/v1/completions", json={"model": "m", "prompt": [5, 6, 7], "return_token_ids": True, "logprobs": 1}
    ).json()

    assert [c.text[-3:] for c in texts.choices] == ["one", "two"]
    choice = ids["choices"][0]
    assert choice["prompt_token_ids"] == [5, 6, 7]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["tokens"]) == ids["usage"]["completion_tokens"]


def test_a_completion_streams(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.completions.create(model="m", prompt="one", stream=True))

    assert "".join(c.choices[0].text for c in chunks).endswith("You said: one")
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_embeddings_are_the_same_for_the_same_text_in_both_codings(sdk: openai.OpenAI, base: str) -> None:
    as_sdk = sdk.embeddings.create(model="m", input=["a", "b"])  # asks for base64
    plain = httpx2.post(f"{base}/v1/embeddings", json={"model": "m", "input": "a", "dimensions": 3}).json()

    assert as_sdk.data[0].embedding[:3] == pytest.approx(plain["data"][0]["embedding"], rel=1e-6)
    assert as_sdk.data[0].embedding != as_sdk.data[1].embedding


@pytest.mark.parametrize("by", ["header", "message"])
def test_a_request_may_ask_for_an_error_with_retry_after(base: str, by: str) -> None:
    headers = {"x-echo-status": "503", "x-echo-retry-after": "7"} if by == "header" else {}
    text = "hi" if by == "header" else '{"echo": {"status": 503, "retry_after": "7"}}'

    answer = httpx2.post(f"{base}/v1/chat/completions", json={"model": "m", "messages": user(text)}, headers=headers)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["code"] == 503


def test_a_request_may_ask_for_a_number_of_pieces(base: str) -> None:
    body = {"model": "m", "stream": True, "messages": user('{"echo": {"chunks": 5, "chunk_ms": 1}}')}

    chunks = events(httpx2.post(f"{base}/v1/chat/completions", json=body).text)

    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["", "echo", " 2", " 3", " 4", " 5", ""]


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_may_ask_for_an_answer_that_breaks_off(base: str, *, stream: bool) -> None:
    body = {"model": "m", "stream": stream, "messages": user('{"echo": {"die_after_chunks": 2}}')}

    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.post(f"{base}/v1/chat/completions", json=body)

    assert stats(base)["by_status"] == {"200": 1}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(b"{", "not JSON", id="no JSON"),
        pytest.param(b"[]", "JSON object", id="no object"),
        pytest.param(b"{}", "model is missing", id="no model"),
        pytest.param(b'{"model": "m", "messages": []}', "messages must be", id="no messages"),
        pytest.param(b'{"model": "m", "messages": [{}], "n": 0}', "n must be", id="no choice"),
        pytest.param(
            b'{"model": "m", "messages": [{"role": "user", "content": "{\\"echo\\": {\\"statu\\": 1}}"}]}',
            "statu",
            id="unknown directive",
        ),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_by_field(base: str, body: bytes, complaint: str) -> None:
    answer = httpx2.post(f"{base}/v1/chat/completions", content=body)

    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]


def test_what_was_seen_is_told_without_secrets(base: str, sdk: openai.OpenAI) -> None:
    sdk.chat.completions.create(model="m", messages=user("hi"), extra_headers={"x-seen": "yes"})
    httpx2.post(f"{base}/v1/chat/completions", content=b"{")

    seen = stats(base)

    assert (seen["calls"], seen["by_status"]) == (2, {"200": 1, "400": 1})
    assert "sk-test" not in json.dumps(seen)
    sdk.chat.completions.create(model="m", messages=user("hi"), extra_headers={"x-seen": "yes"})
    last = stats(base)["last"]
    assert (last["headers"]["x-seen"], last["headers"]["authorization"]) == ("yes", "(hidden)")
    assert last["body"]["messages"] == user("hi")
    httpx2.post(f"{base}/stats/reset")
    assert stats(base)["calls"] == 0


def test_a_client_that_leaves_is_noticed(base: str, server: Process) -> None:
    body = json.dumps({"model": "m", "stream": True, "messages": user('{"echo": {"chunks": 999, "chunk_ms": 20}}')})
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    for _ in range(200):
        if (seen := stats(base))["client_gone"]:
            break

    assert (seen["client_gone"], seen["in_flight"]) == (1, 0)


def test_models_lists_what_is_served_and_only_that_is_served() -> None:
    with running("llmproxy.echo", "--port", "0", "--model", "phi", ready="ready on") as process:
        url = f"http://127.0.0.1:{process.port}"
        listed = httpx2.get(f"{url}/v1/models").json()
        refused = httpx2.post(f"{url}/v1/chat/completions", json={"model": "other", "messages": user("x")})
        ended = process.end()

    assert [m["id"] for m in listed["data"]] == ["phi"]
    assert "phi" in refused.json()["error"]["message"]
    assert ended == 0


def test_a_share_of_the_calls_fails_when_asked_to() -> None:
    with running("llmproxy.echo", "--port", "0", "--fail-rate", "0.5", ready="ready on") as process:
        url = f"http://127.0.0.1:{process.port}/v1/chat/completions"
        statuses = [httpx2.post(url, json={"model": "m", "messages": user("x")}).status_code for _ in range(40)]

    assert set(statuses) == {200, 503}


def test_a_port_that_is_taken_is_said() -> None:
    with running("llmproxy.echo", "--port", "0", ready="ready on") as first:
        second = started("llmproxy.echo", "--port", str(first.port))
        code = second.wait()
        second.end()
        said = second.output

    assert code == 1
    assert f"cannot listen on 127.0.0.1:{first.port}" in said
