"""Counts of tokens in every protocol's words."""

import json

import pytest

from llmproxy.protocols.usage import MessagesUsage, answer_tokens, read_chat, to_anthropic


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
        (b"<html>", None),
        (b'{"usage": {"input_tokens": 1, "output_tokens": 2}}', 3),
        (b'{"usage": {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 4}}', 7),
        (b'{"usage": {"prompt_tokens": 8.0, "completion_tokens": 2.0, "total_tokens": null}}', 10),
        (b'{"usage": {"prompt_tokens": null, "completion_tokens": null}}', None),
        (b'{"usage": {"prompt_tokens": -1, "completion_tokens": true}}', None),
    ],
)
def test_the_tokens_of_a_plain_answer(body: bytes, tokens: int | None) -> None:
    assert answer_tokens(body) == tokens


def test_counts_that_cannot_be_read_are_none() -> None:
    odd = json.loads(
        '{"prompt_tokens": 8.0, "completion_tokens": null, "total_tokens": NaN, "prompt_tokens_details": 5}'
    )
    counts = read_chat(odd)
    assert counts is not None
    assert counts.total == 8
    assert to_anthropic(counts)["input_tokens"] == 8
    assert read_chat(None) is None
    assert read_chat("8") is None


def test_later_counts_of_a_stream_replace_earlier_ones_and_nulls_do_not() -> None:
    usage = MessagesUsage()
    usage.update({"input_tokens": 5, "output_tokens": 1})
    usage.update({"input_tokens": None, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}})
    usage.update(None)
    assert (usage.total, usage.thinking_tokens) == (14, 4)
