"""Streams that are forwarded as they are, cut at every byte."""

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.protocols.passthrough import (
    ChatPassthrough,
    MessagesPassthrough,
    PassthroughStream,
    ResponsesPassthrough,
)
from llmproxy.protocols.sse import MAX_EVENT, EventTooLargeError

ODD = "\u0085 \u2028 \u2029 \U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \x1c\x1d\x0b\x0c end"
"""What Python's `splitlines` breaks at and bytes of several units: a stream must carry all of it."""
END = b"data: [DONE]\n\n"


def chunk(content: str | None = None, usage: int | None = None) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    told = (
        {} if usage is None else {"usage": {"prompt_tokens": 1, "completion_tokens": usage - 1, "total_tokens": usage}}
    )
    return b"data: " + json.dumps({"choices": choices, **told}, ensure_ascii=False).encode() + b"\n\n"


TEXTS = [chunk(ODD), chunk("a"), b": ping\n\n", chunk(ODD[::-1]), chunk('"usage" and [DONE] are words')]
STREAM = b"".join(TEXTS)


def forwarded(parts: Iterable[bytes], *, hide_usage: bool = True) -> tuple[bytes, bytes, ChatPassthrough]:
    """Return what is forwarded at once, what is held, and the stream."""
    stream = ChatPassthrough(hide_usage=hide_usage)
    now, held = [], []
    for part in parts:
        first, later = stream.feed(part)
        now.append(first)
        held.append(later)
    held.append(stream.rest())
    return b"".join(now), b"".join(held), stream


def cut(data: bytes, *borders: int) -> list[bytes]:
    places = [0, *sorted(borders), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def test_at_every_border_every_byte_arrives_in_order() -> None:
    whole = STREAM + chunk(usage=9) + END
    for border in range(len(whole) + 1):
        now, held, stream = forwarded(cut(whole, border))
        assert (now, held) == (STREAM, END), border
        assert (stream.tokens, stream.done) == (9, True)


def test_byte_by_byte() -> None:
    whole = STREAM + chunk(usage=9) + END
    now, held, stream = forwarded(whole[i : i + 1] for i in range(len(whole)))
    assert (now, held, stream.tokens) == (STREAM, END, 9)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_borders_anywhere_and_both_line_ends(borders: list[int], line_end: bytes) -> None:
    whole = (STREAM + END).replace(b"\n", line_end)
    now, held, stream = forwarded(cut(whole, *(b for b in borders if b <= len(whole))))
    assert now + held == whole
    assert stream.done


def test_a_part_of_whole_events_is_forwarded_as_it_is() -> None:
    part = chunk("a") + chunk("b")
    stream = ChatPassthrough(hide_usage=True)
    stream.feed(part)
    assert stream.feed(part)[0] is part


def test_the_usage_that_the_client_asked_for_is_forwarded() -> None:
    usage = chunk(usage=9)
    now, held, stream = forwarded([chunk("a"), usage, END], hide_usage=False)
    assert (now, held, stream.tokens) == (chunk("a") + usage, END, 9)


def test_usage_in_a_chunk_with_text_is_never_taken_out() -> None:
    both = chunk("a", usage=5)
    now, _, stream = forwarded([both, END])
    assert (now, stream.tokens) == (both, 5)


def test_a_usage_of_null_is_not_one() -> None:
    null = b'data: {"choices": [], "usage": null}\n\n'
    now, _, stream = forwarded([null, END])
    assert (now, stream.tokens) == (null, None)


@pytest.mark.parametrize(
    "end", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\n\n", b"event: end\ndata: [DONE]\n\n"]
)
def test_the_end_is_known_in_every_form_and_held(end: bytes) -> None:
    now, held, stream = forwarded([chunk("a") + end])
    assert (now, held, stream.done) == (chunk("a"), end, True)


def test_what_follows_the_end_is_held_with_it() -> None:
    now, held, _ = forwarded([chunk("a"), END, b": bye\n\n"])
    assert (now, held) == (chunk("a"), END + b": bye\n\n")


def test_a_stream_without_an_end_is_not_done() -> None:
    now, held, stream = forwarded([chunk("a"), b'data: {"cho'])
    assert (now, held, stream.done) == (chunk("a"), b"", False)


def finish(index: int = 0, *, space: bool = True) -> bytes:
    choice = {"index": index, "delta": {}, "finish_reason": "stop"}
    return b"data: " + json.dumps({"choices": [choice]}, separators=None if space else (",", ":")).encode() + b"\n\n"


@pytest.mark.parametrize("space", [True, False])
def test_a_stream_without_done_is_whole_when_it_has_finished(*, space: bool) -> None:
    whole = chunk("a") + finish(space=space) + chunk(usage=9)
    for border in range(len(whole) + 1):
        now, held, stream = forwarded(cut(whole, border), hide_usage=False)
        assert (now + held, stream.done, stream.tokens) == (whole, True, 9), border
        now, held, stream = forwarded(cut(whole[:-2], border), hide_usage=False)
        assert (now + held, stream.done, stream.tokens) == (whole[:-2], True, 9), border


def test_a_finish_whose_event_is_not_ended_counts() -> None:
    now, held, stream = forwarded([chunk("a"), finish()[:-2]])
    assert (now, held, stream.done) == (chunk("a"), finish()[:-2], True)


def test_a_stream_without_done_breaks_off_in_what_follows_its_finish() -> None:
    now, held, stream = forwarded([chunk("a") + finish() + chunk(usage=9)[:-9]])
    assert (now, held, stream.done) == (chunk("a") + finish(), b"", False)


def test_every_choice_must_have_finished() -> None:
    stream = ChatPassthrough(hide_usage=True, choices=2)
    stream.feed(chunk("a") + finish(1) + finish(1))
    stream.rest()
    assert not stream.done
    stream = ChatPassthrough(hide_usage=True, choices=2)
    stream.feed(chunk("a") + finish(1))
    stream.feed(finish(0))
    stream.rest()
    assert stream.done


@pytest.mark.parametrize("said", ["null", '"\\"finish_reason\\": \\"stop\\""'])
def test_what_is_no_finish_ends_nothing(said: str) -> None:
    """OpenAI and vLLM say null in every chunk, and a model may speak of it."""
    event = b'data: {"choices": [{"index": 0, "delta": {"content": %b}, "finish_reason": null}]}\n\n' % said.encode()
    now, held, stream = forwarded([event])
    assert (now, held, stream.done) == (event, b"", False)


@pytest.mark.parametrize("end", [b"", END])
def test_an_error_ends_a_stream_that_has_failed(end: bytes) -> None:
    error = b'data: {"error": {"message": "the engine died", "code": 500}}\n\n'
    whole = chunk("a") + error + end
    for border in range(len(whole) + 1):
        now, held, stream = forwarded(cut(whole, border))
        assert (now + held, stream.done, stream.failed) == (whole, True, True), border
        assert held.endswith(end)


@pytest.mark.parametrize("said", [b"null", b'""'])
def test_no_error_is_none(said: bytes) -> None:
    whole = b'data: {"choices": [], "error": %b}\n\n' % said
    now, held, stream = forwarded([whole, END])
    assert (now + held, stream.done, stream.failed) == (whole + END, True, False)
    assert not forwarded([whole])[2].done


def test_a_usage_chunk_whose_event_is_not_ended_is_hidden_all_the_same() -> None:
    now, held, stream = forwarded([chunk("a"), chunk(usage=7)[:-2]])
    assert (now, held, stream.tokens) == (chunk("a"), b"", 7)


@pytest.mark.parametrize("stream", [ChatPassthrough(hide_usage=True), ResponsesPassthrough(), MessagesPassthrough()])
def test_an_event_without_an_end_is_given_up(stream: PassthroughStream) -> None:
    stream.feed(b"data: " + bytes(MAX_EVENT - 6))
    with pytest.raises(EventTooLargeError):
        stream.feed(b"x")


def test_broken_json_in_an_event_is_forwarded() -> None:
    odd = b'data: {"usage": }\n\n'
    assert forwarded([odd, END])[0] == odd


BREAKERS = 'a\u2028b\u2029c\u0085d ä€😀 response.completed message_stop "usage" "type": "error" e\u0301 end'
USED = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more}, ensure_ascii=False)}\n\n".encode()


COMPLETED = event("response.completed", response={"id": "resp_1", "usage": USED})
STOP = event("message_stop")


def response(last: bytes) -> bytes:
    first = event("response.created", response={"id": "resp_1", "error": None, "usage": None})
    return first + event("response.output_text.delta", delta=BREAKERS) + last


def message(last: bytes) -> bytes:
    usage = {"input_tokens": 2, "cache_read_input_tokens": 1, "output_tokens": 1}
    first = event("message_start", message={"id": "msg_1", "content": [], "usage": usage})
    text = event("content_block_delta", index=0, delta={"type": "text_delta", "text": BREAKERS})
    return first + text + event("message_delta", delta={}, usage={"output_tokens": 4}) + last


def chat(last: bytes) -> bytes:
    return chunk(BREAKERS) + chunk("b", usage=7) + last


PROTOCOLS = [
    pytest.param(lambda: ChatPassthrough(hide_usage=False), chat, END, id="chat"),
    pytest.param(ResponsesPassthrough, response, COMPLETED, id="responses"),
    pytest.param(MessagesPassthrough, message, STOP, id="messages"),
]
Stream = Callable[[], PassthroughStream]
Whole = Callable[[bytes], bytes]


def fed(stream: PassthroughStream, parts: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return what *stream* forwards of *parts* at once, and what it holds."""
    now = held = b""
    for part in parts:
        first, later = stream.feed(part)
        now, held = now + first, held + later
    return now, held + stream.rest()


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 1200), max_size=12), line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
@pytest.mark.parametrize(("make", "whole", "last"), PROTOCOLS)
def test_bytes_stay_as_they_are_and_the_end_is_held(
    make: Stream, whole: Whole, last: bytes, *, cuts: list[int], line_end: bytes
) -> None:
    data, end = (part.replace(b"\n", line_end) for part in (b": hi\n\n" + whole(last), last))
    stream = make()
    now, held = fed(stream, cut(data, *(at for at in cuts if at <= len(data))))
    assert now + held == data
    # A LF that follows a CR over a border goes with what was before it.
    assert held.removeprefix(b"\n") == end or held == end
    assert (stream.done, stream.failed, stream.tokens) == (True, False, 7)


@pytest.mark.parametrize(("make", "whole", "last"), PROTOCOLS)
def test_a_stream_that_stops_in_the_middle_is_not_done(make: Stream, whole: Whole, last: bytes) -> None:
    for missing in (len(last), 3 + len(last) // 2):
        stream = make()
        data = whole(last)[:-missing]
        assert whole(b"") == fed(stream, [data])[0]
        assert not stream.done


@pytest.mark.parametrize(("make", "whole", "last"), PROTOCOLS)
def test_a_last_event_without_its_end_is_read(make: Stream, whole: Whole, last: bytes) -> None:
    stream = make()
    assert fed(stream, [whole(last)[:-2]]) == (whole(b""), last[:-2])
    assert (stream.done, stream.tokens) == (True, 7)


@pytest.mark.parametrize(("make", "whole", "last"), PROTOCOLS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_data_needs_no_blank_and_comments_say_nothing(make: Stream, whole: Whole, last: bytes, line_end: bytes) -> None:
    data = (b": data: [DONE]\n\n" + whole(last)).replace(b"data: ", b"data:").replace(b"\n", line_end)
    stream = make()
    now, held = fed(stream, [data])
    assert now + held == data
    assert held == last.replace(b"data: ", b"data:").replace(b"\n", line_end)
    assert (stream.done, stream.failed, stream.tokens) == (True, False, 7)


@pytest.mark.parametrize(("make", "whole", "last"), PROTOCOLS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_16_mb_in_4_kb_pieces_are_forwarded(make: Stream, whole: Whole, last: bytes, line_end: bytes) -> None:
    long = b'data: {"choices": [], "type": "x", "long": "%b"}\n\n' % (b"y" * (16 << 20))
    data = (whole(long) + last).replace(b"\n", line_end)
    stream = make()
    now: list[bytes] = []
    held: list[bytes] = []
    for at in range(0, len(data), 4096):
        first, later = stream.feed(data[at : at + 4096])
        now.append(first)
        held.append(later)
    assert b"".join(now) + b"".join(held) == data
    assert b"".join(held) == last.replace(b"\n", line_end)
    assert (stream.done, stream.failed, stream.tokens) == (True, False, 7)


@pytest.mark.parametrize(
    ("last", "failed", "tokens"),
    [
        (event("response.incomplete", response={"usage": USED}), False, 7),
        (event("response.failed", response={"error": {"code": "server_error"}, "usage": None}), True, None),
        (event("error", code="server_error", message="x"), True, None),
    ],
)
def test_every_end_of_a_response(last: bytes, *, failed: bool, tokens: int | None) -> None:
    stream = ResponsesPassthrough()
    assert stream.feed(response(last))[1] == last
    assert (stream.done, stream.failed, stream.tokens) == (True, failed, tokens)


def test_an_error_is_the_end_of_a_messages_stream() -> None:
    stream = MessagesPassthrough()
    data = message(event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    assert b"".join(stream.feed(data)) == data
    assert (stream.done, stream.failed) == (True, True)
