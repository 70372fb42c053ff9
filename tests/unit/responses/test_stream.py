"""The end and the tokens of a stream of the Responses API, wherever its bytes are cut."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.protocols.responses_stream import ResponsesStream, answer_tokens

BREAKERS = 'a\u2028b\u2029c\u0085d ä€😀 response.completed "type": "error" e\u0301 end'
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more}, ensure_ascii=False)}\n\n".encode()


def whole(last: bytes) -> bytes:
    begun = event("response.created", response={"id": "resp_1", "error": None, "usage": None})
    return begun + event("response.output_text.delta", delta=BREAKERS) + last


COMPLETED = event("response.completed", response={"id": "resp_1", "usage": USAGE})


@given(st.lists(st.integers(0, len(whole(COMPLETED))), max_size=12))
def test_bytes_stay_as_they_are_and_the_end_is_held(cuts: list[int]) -> None:
    data = whole(COMPLETED)
    stream = ResponsesStream()
    now = held = b""
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        forwarded, last = stream.feed(data[start:end])
        now, held = now + forwarded, held + last
    assert (now + held, held) == (data, COMPLETED)
    assert (stream.done, stream.failed, stream.tokens, stream.pending) == (True, False, 7, 0)


@pytest.mark.parametrize(
    ("last", "failed", "tokens"),
    [
        (event("response.incomplete", response={"usage": USAGE}), False, 7),
        (event("response.failed", response={"error": {"code": "server_error"}, "usage": None}), True, None),
        (event("error", code="server_error", message="x"), True, None),
    ],
)
def test_every_end(last: bytes, *, failed: bool, tokens: int | None) -> None:
    stream = ResponsesStream()
    assert stream.feed(whole(last))[1] == last
    assert (stream.done, stream.failed, stream.tokens) == (True, failed, tokens)


def test_a_last_event_without_its_end_is_read() -> None:
    stream = ResponsesStream()
    assert stream.feed(COMPLETED[:-2])[1] == b""
    assert stream.end() == (b"", COMPLETED[:-2])
    assert (stream.done, stream.tokens) == (True, 7)


def test_a_stream_that_stops_in_the_middle_is_not_done() -> None:
    stream = ResponsesStream()
    stream.feed(whole(b""))
    assert (stream.done, stream.tokens) == (False, None)


def test_tokens_of_a_plain_answer() -> None:
    assert answer_tokens(json.dumps({"usage": {"input_tokens": 1, "output_tokens": 2}}).encode()) == 3
    assert answer_tokens(b'{"usage": null}') is None
    assert answer_tokens(b"<html>") is None
