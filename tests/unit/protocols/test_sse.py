"""The reader of server-sent events: the same events in whatever pieces they come, and work that is linear."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmproxy.protocols.anthropic_to_openai.stream import MessagesStream
from llmproxy.protocols.normalize.assemble import read_answer
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream
from llmproxy.protocols.passthrough import ChatPassthrough, MessagesPassthrough, ResponsesPassthrough
from llmproxy.protocols.responses_to_openai.stream import ResponseStream
from llmproxy.protocols.sse import EventReader, EventTooLargeError, event_data, stream_data
from llmproxy.protocols.translated_stream import ChainedStream

_BITS = st.sampled_from([
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n"),
    *(b"data: ", b"data:", b"event: x", b": ", b"a", b"\xe2\x80\xa8", b"\xc2\x85"),
])  # fmt: skip


def expected(data: bytes) -> list[bytes]:
    """Return the data of each event, read as the standard says: line by line."""
    events: list[bytes] = []
    lines: list[bytes] = []
    for line in [*re.split(rb"\r\n|\n|\r", data), b""]:
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line:
            events += [content] if (content := b"\n".join(lines)) else []
            lines = []
    return events


def read(data: bytes, size: int) -> tuple[list[bytes], bytes]:
    """Return the data of each event in *data*, read in pieces, and all bytes that were given."""
    reader = EventReader()
    events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    events.append(reader.rest())
    return [content for event in events if (content := event_data(event))], b"".join(events)


@given(st.lists(_BITS), st.integers(1, 9))
@example([b"a"], 1)
@example([b"data: ", b"a", b"\r\n\r\n", b"data: ", b"b", b"\n\n"], 9)
@example([b"data: ", b"a", b"\r\n", b"\r\n", b"data: ", b"b", b"\r\n\r\n"], 1)
@example([b"data: ", b"a", b"\r\r", b"data: ", b"b", b"\r", b"\n"], 3)
def test_events_are_the_same_in_whatever_pieces_they_come(bits: list[bytes], size: int) -> None:
    data = b"".join(bits)
    for most in (size, len(data) or 1):
        assert read(data, most) == (expected(data), data)
    assert stream_data(data) == expected(data)


def test_an_event_may_have_several_lines_and_comments() -> None:
    reader = EventReader()
    events = reader.feed(b": ping\n\ndata: a\r\nid: 5\r\ndata:b\r\n\r\nevent: x\n\ndata")
    assert [event_data(event) for event in events] == [b"", b"a\nb", b""]
    assert reader.pending == 4


def test_an_event_comes_with_its_last_byte_and_a_late_lf_alone() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\r\n\r") == [b"data: a\r\n\r"]
    assert reader.feed(b"\n") == [b"\n"]
    assert reader.feed(b"data: b\r\n\r\n") == [b"data: b\r\n\r\n"]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert stream_data(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]


def test_the_bound_of_an_event_holds_in_pieces_and_not_for_many_events() -> None:
    reader = EventReader(max_event=1000)
    assert len(reader.feed(b"data: 1\n\n" * 1000)) == 1000
    assert reader.feed(b"x" * 1000) == []
    with pytest.raises(EventTooLargeError):
        reader.feed(b"x")


Feed = Callable[[bytes], object]


def messages_to_responses() -> Feed:
    return ChainedStream(ChatStream(1, with_usage=True), ResponseStream({}, 1)).feed


READERS: dict[str, Callable[[], Feed]] = {
    "chat": lambda: ChatPassthrough(hide_usage=True).feed,
    "responses": lambda: ResponsesPassthrough().feed,
    "messages": lambda: MessagesPassthrough().feed,
    "chat to messages": lambda: MessagesStream().feed,
    "messages to chat": lambda: ChatStream(1, with_usage=True).feed,
    "chat to responses": lambda: ResponseStream({}, 1).feed,
    "messages to responses": messages_to_responses,
}


def cpu_s(make: Callable[[], Feed], event: bytes, size: int) -> float:
    """Return the least CPU of three runs that read *event* in pieces."""
    runs = []
    for _ in range(3):
        feed = make()
        before = time.thread_time()
        for at in range(0, len(event), size):
            feed(event[at : at + size])
        runs.append(time.thread_time() - before)
    return min(runs)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", READERS)
def test_a_long_event_costs_no_more_a_byte_than_a_short_one(name: str, line_end: bytes) -> None:
    """An event that is searched anew with each piece costs 16 times as much a byte: 4 MB stopped all calls for 2 s."""
    texts = [b"x" * ((1 << 20) // 4), b"x" * (4 << 20)]
    events = [b": long " + text + b"\ndata: {}" for text in texts]
    short, long = (cpu_s(READERS[name], event.replace(b"\n", line_end), 512) for event in events)
    assert long / 16 < 4 * short


def test_a_whole_stream_is_read_in_linear_time() -> None:
    short, long = (
        cpu_s(lambda: lambda body: read_answer(body, streamed=True), b"data: {}\n\n" * count, 1 << 30)
        for count in (10_000, 160_000)
    )
    assert long / 16 < 4 * short
