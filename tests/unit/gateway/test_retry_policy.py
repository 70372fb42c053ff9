"""Whether and when to try again."""

import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.contract import Retries
from llmproxy.gateway.errors import retry_after
from llmproxy.gateway.requests.retry_policy import backoff_s, is_final, is_retried, read_retry_after, wait_before_next

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
RETRIES = Retries(max=2, initial_delay_s=0.5, max_delay_s=8)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529, 599])
def test_what_may_heal_is_tried_again(status: int) -> None:
    assert is_retried(status)


@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 413, 422, 499])
def test_what_will_not_heal_is_passed_on(status: int) -> None:
    assert not is_retried(status)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"2"}, 2.0),
        ({b"retry-after": b"0.25"}, 0.25),
        ({b"retry-after": b"0"}, 0.0),
        ({b"retry-after-ms": b"1500", b"retry-after": b"9"}, 1.5),
        ({b"retry-after-ms": b"soon", b"retry-after": b"9"}, 9.0),
        ({b"retry-after": format_datetime(NOW.replace(second=7), usegmt=True).encode()}, 7.0),
        ({b"retry-after": format_datetime(NOW.replace(hour=11), usegmt=True).encode()}, 0.0),
        ({b"retry-after": b"Tue, 24 Nov 2026 12:00:07"}, 7.0),
        ({b"retry-after": b"-1"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"inf"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"\xff"}, None),
    ],
)
def test_every_form_of_retry_after_is_understood(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert read_retry_after(headers, NOW.timestamp()) == seconds


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_nonsense_in_retry_after_is_no_wait(value: bytes) -> None:
    seconds = read_retry_after({b"retry-after": value}, NOW.timestamp())
    assert seconds is None or seconds >= 0


@settings(deadline=None)
@given(st.integers(1, 11), st.integers(0, 1000))
def test_backoff_grows_with_full_jitter_and_a_bound(tries: int, seed: int) -> None:
    bound = min(8, 0.5 * 2 ** (tries - 1))
    assert 0 <= backoff_s(RETRIES, tries, random.Random(seed)) <= bound


def test_backoff_uses_its_whole_range() -> None:
    rand = random.Random(1)
    waits = [backoff_s(RETRIES, 2, rand) for _ in range(1000)]
    assert min(waits) < 0.05
    assert max(waits) > 0.95


@pytest.mark.parametrize(
    ("tries", "asked_s", "wait_s"),
    [
        pytest.param(1, 3.0, 3.0, id="the upstream's wish"),
        pytest.param(2, 8.0, 8.0, id="up to maxDelay"),
        pytest.param(1, 8.1, None, id="above it the answer is passed on"),
        pytest.param(3, 1.0, None, id="after retries.max tries"),
    ],
)
def test_the_upstreams_wish_is_followed_within_maxdelay(tries: int, asked_s: float, wait_s: float | None) -> None:
    assert wait_before_next(RETRIES, tries, asked_s, random.Random(1)) == wait_s


def test_without_a_wish_it_backs_off_until_retries_are_used_up() -> None:
    rand = random.Random(1)
    assert wait_before_next(RETRIES, 2, None, rand) is not None
    assert wait_before_next(RETRIES, 3, None, rand) is None


@pytest.mark.parametrize(
    ("headers", "body", "final"),
    [
        ({}, b'{"error": {"code": "insufficient_quota"}}', True),
        ({}, b'{"error": {"type": "insufficient_quota", "code": null}}', True),
        ({}, b'{"error": {"code": "rate_limit_exceeded"}}', False),
        ({}, b'{"error": "insufficient_quota"}', False),
        ({}, b"insufficient_quota", False),
        ({b"x-should-retry": b"false"}, b"", True),
        ({b"x-should-retry": b"true"}, b"", False),
    ],
)
def test_what_the_server_says_no_wait_heals_is_final(headers: dict[bytes, bytes], body: bytes, *, final: bool) -> None:
    assert is_final(headers, body) is final


@pytest.mark.parametrize("raw", [b"nan", b"inf", b"Mon, 01 Jan 0001 00:00:00 GMT", b"Mon, 01 Jan 0000 00:00:00 GMT"])
def test_a_retry_after_that_is_nonsense_is_none(raw: bytes) -> None:
    assert not read_retry_after({b"retry-after": raw}, NOW.timestamp())


@pytest.mark.parametrize(("seconds", "told"), [(0.2, b"1"), (59.5, b"60"), (3600, b"60")])
def test_retry_after_is_never_above_a_minute(seconds: float, told: bytes) -> None:
    assert dict(retry_after(seconds))[b"retry-after"] == told
    assert int(dict(retry_after(seconds))[b"retry-after-ms"]) <= 60_000
