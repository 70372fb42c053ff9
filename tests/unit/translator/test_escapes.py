"""The three characters that litellm loses text at, cut in every way."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.translator.escapes import StreamEscaper, escape, is_text

TEXT = 'data: {"a": "x\u2028y\u2029z\u0085\u2028\u2028 \u00e4\u2027\u20ac\U0001f600"}\r\n\r\n'


def cured(parts: list[bytes]) -> bytes:
    cure = StreamEscaper()
    return b"".join(cure.feed(part) for part in parts) + cure.rest()


@pytest.mark.parametrize(
    ("kind", "cured"),
    [
        ("text/event-stream; charset=utf-8", True),
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ("application/x-amz-json-1.1", True),
        ("application/x-ndjson", True),
        ("", True),
        ("application/vnd.amazon.eventstream", False),
        ("application/octet-stream", False),
        ("audio/mpeg; x=json", False),
    ],
)
def test_only_text_is_cured(kind: str, cured: bool) -> None:  # noqa: FBT001 - a row
    assert is_text(kind) == cured


@pytest.mark.parametrize("at", range(len(TEXT.encode()) + 1))
def test_a_stream_cut_anywhere_means_the_same_and_has_one_line(at: int) -> None:
    data = TEXT.encode()

    out = cured([data[:at], data[at:]])

    assert out == escape(data)
    assert len(out.decode().splitlines()) == 2
    assert json.loads(out.decode()[6:]) == json.loads(TEXT[6:])


def test_a_stream_of_single_bytes_is_cured_too() -> None:
    assert cured([bytes([b]) for b in TEXT.encode()]) == escape(TEXT.encode())


@given(st.text(alphabet="a\u0085\u2028\u2029\u2027\u20aa\u00c2é\\"), st.lists(st.integers(0, 60)))
def test_no_text_is_changed_by_any_cut(text: str, cuts: list[int]) -> None:
    data = json.dumps(text, ensure_ascii=False).encode()
    borders = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})

    out = cured([data[a:b] for a, b in itertools.pairwise(borders)])

    assert json.loads(out) == text


def test_a_character_that_is_cut_at_the_very_end_is_not_swallowed() -> None:
    assert cured([b"abc\xe2\x80"]) == b"abc\xe2\x80"
