"""Streams on their way, cut at every byte."""

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.protocols import passthrough
from llmproxy.protocols.passthrough import EventTooLargeError, Relay
from llmproxy.protocols.usage import answer_tokens

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


def relayed(parts: Iterable[bytes], *, hide_usage: bool = True) -> tuple[bytes, bytes, Relay]:
    """Return what is forwarded at once, what is held, and the relay."""
    relay = Relay(hide_usage=hide_usage)
    now, held = [], []
    for part in parts:
        first, later = relay.feed(part)
        now.append(first)
        held.append(later)
    held.append(relay.rest())
    return b"".join(now), b"".join(held), relay


def cut(data: bytes, *borders: int) -> list[bytes]:
    places = [0, *sorted(borders), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def test_at_every_border_every_byte_arrives_in_order() -> None:
    whole = STREAM + chunk(usage=9) + END
    for border in range(len(whole) + 1):
        now, held, relay = relayed(cut(whole, border))
        assert (now, held) == (STREAM, END), border
        assert (relay.tokens, relay.done) == (9, True)


def test_byte_by_byte() -> None:
    whole = STREAM + chunk(usage=9) + END
    now, held, relay = relayed(whole[i : i + 1] for i in range(len(whole)))
    assert (now, held, relay.tokens) == (STREAM, END, 9)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_borders_anywhere_and_both_line_ends(borders: list[int], line_end: bytes) -> None:
    whole = (STREAM + END).replace(b"\n", line_end)
    now, held, relay = relayed(cut(whole, *(b for b in borders if b <= len(whole))))
    assert now + held == whole
    assert relay.done


def test_a_part_of_whole_events_is_forwarded_as_it_is() -> None:
    part = chunk("a") + chunk("b")
    assert Relay(hide_usage=True).feed(part)[0] is part


def test_the_usage_that_the_client_asked_for_is_forwarded() -> None:
    usage = chunk(usage=9)
    now, held, relay = relayed([chunk("a"), usage, END], hide_usage=False)
    assert (now, held, relay.tokens) == (chunk("a") + usage, END, 9)


def test_usage_in_a_chunk_with_text_is_never_taken_out() -> None:
    both = chunk("a", usage=5)
    now, _, relay = relayed([both, END])
    assert (now, relay.tokens) == (both, 5)


def test_a_usage_of_null_is_not_one() -> None:
    null = b'data: {"choices": [], "usage": null}\n\n'
    now, _, relay = relayed([null, END])
    assert (now, relay.tokens) == (null, None)


@pytest.mark.parametrize(
    "end", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\n\n", b"event: end\ndata: [DONE]\n\n"]
)
def test_the_end_is_known_in_every_form_and_held(end: bytes) -> None:
    now, held, relay = relayed([chunk("a") + end])
    assert (now, held, relay.done) == (chunk("a"), end, True)


def test_what_follows_the_end_is_held_with_it() -> None:
    now, held, _ = relayed([chunk("a"), END, b": bye\n\n"])
    assert (now, held) == (chunk("a"), END + b": bye\n\n")


def test_a_stream_without_an_end_is_not_done() -> None:
    now, held, relay = relayed([chunk("a"), b'data: {"cho'])
    assert (now, held, relay.done) == (chunk("a"), b"", False)


def finish(index: int = 0, *, space: bool = True) -> bytes:
    choice = {"index": index, "delta": {}, "finish_reason": "stop"}
    return b"data: " + json.dumps({"choices": [choice]}, separators=None if space else (",", ":")).encode() + b"\n\n"


@pytest.mark.parametrize("space", [True, False])
def test_a_stream_without_done_is_whole_when_it_has_finished(*, space: bool) -> None:
    whole = chunk("a") + finish(space=space) + chunk(usage=9)
    for border in range(len(whole) + 1):
        now, held, relay = relayed(cut(whole, border), hide_usage=False)
        assert (now + held, relay.done, relay.tokens) == (whole, True, 9), border
        now, held, relay = relayed(cut(whole[:-2], border), hide_usage=False)
        assert (now + held, relay.done, relay.tokens) == (whole[:-2], True, 9), border


def test_a_finish_whose_event_is_not_ended_counts() -> None:
    now, held, relay = relayed([chunk("a"), finish()[:-2]])
    assert (now, held, relay.done) == (chunk("a"), finish()[:-2], True)


def test_a_stream_without_done_breaks_off_in_what_follows_its_finish() -> None:
    now, held, relay = relayed([chunk("a") + finish() + chunk(usage=9)[:-9]])
    assert (now, held, relay.done) == (chunk("a") + finish(), b"", False)


def test_every_choice_must_have_finished() -> None:
    relay = Relay(hide_usage=True, choices=2)
    relay.feed(chunk("a") + finish(1) + finish(1))
    relay.rest()
    assert not relay.done
    relay = Relay(hide_usage=True, choices=2)
    relay.feed(chunk("a") + finish(1))
    relay.feed(finish(0))
    relay.rest()
    assert relay.done


@pytest.mark.parametrize("said", ["null", '"\\"finish_reason\\": \\"stop\\""'])
def test_what_is_no_finish_ends_nothing(said: str) -> None:
    """OpenAI and vLLM say null in every chunk, and a model may speak of it."""
    event = b'data: {"choices": [{"index": 0, "delta": {"content": %b}, "finish_reason": null}]}\n\n' % said.encode()
    now, held, relay = relayed([event])
    assert (now, held, relay.done) == (event, b"", False)


@pytest.mark.parametrize("end", [b"", END])
def test_an_error_ends_a_stream_that_has_failed(end: bytes) -> None:
    error = b'data: {"error": {"message": "the engine died", "code": 500}}\n\n'
    whole = chunk("a") + error + end
    for border in range(len(whole) + 1):
        now, held, relay = relayed(cut(whole, border))
        assert (now + held, relay.done, relay.failed) == (whole, True, True), border
        assert held.endswith(end)


@pytest.mark.parametrize("said", [b"null", b'""'])
def test_no_error_is_none(said: bytes) -> None:
    whole = b'data: {"choices": [], "error": %b}\n\n' % said
    now, held, relay = relayed([whole, END])
    assert (now + held, relay.done, relay.failed) == (whole + END, True, False)
    assert not relayed([whole])[2].done


def test_a_usage_chunk_whose_event_is_not_ended_is_hidden_all_the_same() -> None:
    now, held, relay = relayed([chunk("a"), chunk(usage=7)[:-2]])
    assert (now, held, relay.tokens) == (chunk("a"), b"", 7)


def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "MAX_EVENT", 1000)
    relay = Relay(hide_usage=True)
    relay.feed(b"data: " + b"x" * 900)
    with pytest.raises(EventTooLargeError):
        relay.feed(b"x" * 200)


def test_broken_json_in_an_event_is_forwarded() -> None:
    odd = b'data: {"usage": }\n\n'
    assert relayed([odd, END])[0] == odd


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}', 7),
        (b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}', 7),
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 3}}', 3),
        (b'{"usage": null}', None),
        (b'{"usage": {"total_tokens": "7"}}', None),
        (b"{}", None),
        (b"[]", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_the_tokens_of_a_plain_answer(body: bytes, tokens: int | None) -> None:
    assert answer_tokens(body) == tokens
