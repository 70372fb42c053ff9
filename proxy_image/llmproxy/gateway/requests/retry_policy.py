"""Whether to try again, and when. Pure: the caller sleeps.

Tries are repeated before the first byte of an answer only: after it the client has seen a part that cannot be taken
back. What counts as worth another try is what OpenAI's and Anthropic's own SDKs repeat, and 425.
"""

import random
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from llmproxy.contract import Retries

RETRIED_STATUS: Final = frozenset({408, 409, 425, 429, *range(500, 600)})


def is_retried(status: int) -> bool:
    """Whether an upstream's *status* is worth another try."""
    return status in RETRIED_STATUS


def backoff_s(retries: Retries, tries: int, rand: random.Random) -> float:
    """Return how long to wait after *tries* tries have failed: exponential, full jitter, bounded."""
    return rand.uniform(0, min(retries.max_delay_s, retries.initial_delay_s * 2 ** (tries - 1)))


def read_retry_after(headers: dict[bytes, bytes], now_s: float) -> float | None:
    """Return the seconds that an upstream asks for, None if it says nothing that can be understood.

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
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_s)


def _number(raw: bytes) -> float | None:
    try:
        value = float(raw)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None  # noqa: PLR2004 - a nan, an infinity or nonsense is no wait


def wait_before_next(retries: Retries, tries: int, asked_s: float | None, rand: random.Random) -> float | None:
    """Return the seconds before the next try of the same deployment, None when the answer is to be passed on.

    An upstream that asks for more than maxDelay is believed: its answer goes to the caller at once, with its
    Retry-After.
    """
    if tries > retries.max:
        return None
    if asked_s is None:
        return backoff_s(retries, tries, rand)
    return asked_s if asked_s <= retries.max_delay_s else None
