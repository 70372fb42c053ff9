"""Streams put together: the same object as the call without a stream would have given."""

import json
import random
from typing import Any

import pytest

from llmproxy.echo import shapes
from llmproxy.echo.generation import EchoToolCall, Generation
from llmproxy.protocols.normalize.assemble import events, joined, read_answer

Json = dict[str, Any]
PROMPT = [5, 6]
ANSWERS = [
    pytest.param(Generation(["Hello", " you\u2028\u2029\u0085", "\r\n\n- x"], [], "stop"), id="text"),
    pytest.param(
        Generation([], [EchoToolCall("f", '{"a": "b c"}'), EchoToolCall("g", "{}")], "tool_calls"), id="tools"
    ),
    pytest.param(Generation(["cut", " off"], [], "length"), id="cut off"),
]


def sse(chunks: list[Json], end: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}{end}{end}" for chunk in chunks]
    return "".join([*lines, f"data: [DONE]{end}{end}"]).encode()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("said", ANSWERS)
def test_a_stream_says_what_the_plain_answer_says(said: Generation, count: int) -> None:
    head = shapes.GenerationHead("chatcmpl-1", 7, "phi", token_ids=True, logprobs=True)
    usage = head.of("chat.completion.chunk", [], usage=shapes.usage(2, count * len(said.generated)))
    body = sse([*shapes.chat_chunks(head, said, PROMPT, count), usage])
    plain = json.loads(json.dumps(shapes.chat(head, said, PROMPT, count)))
    assert read_answer(body, streamed=True) == plain


def test_a_stream_of_the_older_completions_says_what_the_plain_answer_says() -> None:
    head = shapes.GenerationHead("cmpl-1", 7, "phi", token_ids=True, logprobs=True)
    said = Generation(["a", " b", " c"], [], "stop")
    chunks = [*shapes.completion_chunks(head, [(said, PROMPT)])]
    chunks.append(head.of("text_completion", [], usage=shapes.usage(2, len(said.generated))))
    plain = json.loads(json.dumps(shapes.completion(head, [(said, PROMPT)])))
    made = read_answer(sse(chunks), streamed=True)
    assert made is not None
    for choice in (made["choices"][0], plain["choices"][0]):
        del choice["logprobs"]["text_offset"]  # each chunk counts anew
    assert made == plain


def test_lines_may_end_in_cr_lf_and_fields_other_than_data_say_nothing() -> None:
    body = b': hi\r\n\r\nevent: x\r\ndata: {"choices":[{"index":0,"delta":{"content":"a"}}]}\r\n\r\nid: 3\r\n\r\n'
    assert events(body) == [{"choices": [{"index": 0, "delta": {"content": "a"}}]}]


def test_data_over_several_lines_is_one_event() -> None:
    assert events(b'data: {"choices":\ndata: []}\n\n') == [{"choices": []}]


def test_an_end_without_a_blank_line_still_counts() -> None:
    assert events(b'data: {"a": 1}') == [{"a": 1}]


def test_reasoning_and_refusals_are_put_together_too() -> None:
    deltas = [{"role": "assistant", "reasoning_content": "be"}, {"reasoning_content": "cause"}, {"refusal": "no"}]
    made = joined([{"id": "x", "choices": [{"index": 0, "delta": delta}]} for delta in deltas])
    assert made is not None
    assert made["choices"][0]["message"] == {"role": "assistant", "reasoning_content": "because", "refusal": "no"}


def test_tool_calls_without_an_index_go_by_their_ids() -> None:
    parts = [
        {"id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"function": {"arguments": ": 1}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]
    made = joined([{"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts])
    assert made is not None
    assert [(c["id"], c["function"]) for c in made["choices"][0]["message"]["tool_calls"]] == [
        ("a", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]


def test_a_plain_answer_to_a_call_that_asked_for_a_stream_is_read() -> None:
    assert read_answer(b' {"choices": []}', streamed=True) == {"choices": []}


@pytest.mark.parametrize("body", [b"", b"oops", b"[1]", b"null", b"\xff\xfe", b"data: oops\n\n", b"data: [DONE]\n\n"])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_no_answer_is_none(body: bytes, *, streamed: bool) -> None:
    assert read_answer(body, streamed=streamed) is None


def test_nan_and_lone_surrogates_are_read() -> None:
    assert read_answer(b'{"a": NaN, "b": "\\ud83d"}', streamed=False) is not None


def test_odd_chunks_never_raise() -> None:
    rand = random.Random(11)
    values: list[Any] = [None, 1, "x", [], {}, [1], {"a": None}, [None], True, 1.5, {"index": "x"}, [{"index": 0}]]
    names = ("content", "tool_calls", "function_call", "token_ids", "logprobs", "role", "text", "message", "delta")
    for _ in range(3000):
        choice = {name: rand.choice(values) for name in rand.sample(names, 4)}
        choice["delta"] = {name: rand.choice(values) for name in rand.sample(names, 4)}
        chunks = [{"choices": rand.choice([[choice], [choice, choice], 7, None, ["x"]]), "id": rand.choice(values)}]
        joined([json.loads(json.dumps(chunk)) for chunk in chunks * 2])
