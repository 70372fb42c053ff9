"""Redaction of container output."""

import pytest

from llmproxy_operator.redact import redact


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("api_key=planted-0815 was refused", "planted-0815"),
        ('{"token": "planted-0815"}', "planted-0815"),
        ("key sk-proj-abcdefghijklmnop1234 is wrong", "sk-proj-abcdefghijklmnop1234"),
        ("redis://user:planted@host:6379", "planted"),
        ("it was 0815-own-content", "0815-own-content"),
    ],
)
def test_what_looks_like_a_key_is_not_shown(text: str, hidden: str) -> None:
    assert hidden not in redact(text, ["0815-own-content"])


def test_plain_words_stay_and_the_end_of_long_ones() -> None:
    assert redact("field models[0].name: is required\n\n") == "field models[0].name: is required"
    assert redact("a\n" * 2000 + "the last line").endswith("the last line")
    assert len(redact("x" * 10_000)) < 700
