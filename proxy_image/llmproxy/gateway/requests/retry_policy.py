"""Retry policy: which responses are retried, and when. Pure: the caller sleeps.

A request is retried before the first byte of a response only: after it the client has a part that cannot be taken back.
The statuses are those that OpenAI's and Anthropic's own SDKs retry, and 425.
"""

import random
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from llmproxy.contract import Retries

RETRIED_STATUS: Final = frozenset({408, 409, 425, 429, *range(500, 600)})


QUOTA_STATUS: Final = 429
_QUOTA_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low"})
"""No wait heals these."""


def is_retried(status: int) -> bool:
    """Return True when a response with *status* is retried, or another model answers in its place."""
    return status in RETRIED_STATUS


def is_final(headers: dict[bytes, bytes], body: bytes) -> bool:
    """Return True when the same request would fail again, by the server's own word: its quota is used up.

    `x-should-retry` is of OpenAI's and Anthropic's servers, and their SDKs heed it.
    """
    if headers.get(b"x-should-retry") == b"false":
        return True
    try:
        content = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    error = content.get("error") if isinstance(content, dict) else None
    return isinstance(error, dict) and not _QUOTA_CODES.isdisjoint((str(error.get("code")), str(error.get("type"))))


def backoff_s(retries: Retries, attempts: int, rand: random.Random) -> float:
    """Return the wait after *attempts* failures: exponential, full jitter, bounded."""
    return rand.uniform(0, min(retries.max_delay_s, retries.initial_delay_s * 2 ** (attempts - 1)))


def read_retry_after(headers: dict[bytes, bytes], now_s: float) -> float | None:
    """Return Retry-After in seconds, None without a valid one.

    `retry-after-ms` (OpenAI, Azure), seconds with or without a fraction, or an HTTP date (RFC 9110, 10.2.3).
    """
    ms = headers.get(b"retry-after-ms")
    if ms is not None and (value := _number(ms)) is not None:
        return value / 1000
    raw = headers.get(b"retry-after")
    if raw is None:
        return None
    if (value := _number(raw)) is not None:
        return value
    try:
        moment = parsedate_to_datetime(raw.decode("latin-1"))
    except (ValueError, OverflowError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return max(0.0, moment.timestamp() - now_s)
    except (ValueError, OverflowError):  # a date of year 1
        return None


def _number(raw: bytes) -> float | None:
    try:
        value = float(raw)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None  # noqa: PLR2004 - a nan, an infinity or nonsense is no wait


def wait_before_next(retries: Retries, attempts: int, retry_after_s: float | None, rand: random.Random) -> float | None:
    """Return the seconds before the next attempt at the same deployment, None when the response is passed on.

    A Retry-After above maxDelay ends the retries: the response goes to the client at once, with its Retry-After.
    """
    if attempts > retries.max:
        return None
    if retry_after_s is None:
        return backoff_s(retries, attempts, rand)
    return retry_after_s if retry_after_s <= retries.max_delay_s else None
