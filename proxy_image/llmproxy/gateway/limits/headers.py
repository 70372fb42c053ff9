"""Rate-limit headers in the client's protocol: SDKs and agents that read them back off by themselves.

OpenAI's names and formats are those of "Rate limits in headers" (platform.openai.com/docs/guides/rate-limits):
`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, and durations like `6m0s`, `1.2s` and `12ms`. Anthropic's are
those of its "Response headers" (platform.claude.com/docs/en/api/rate-limits):
`anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`, and moments in RFC 3339. A reset is when nothing would
count any more, if nothing else came, rounded up to whole buckets of its window. Several limits of one sort become one
line: the tightest, which is the one with the fewest left and, of two alike, the one that resets later.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from llmproxy.gateway.limits.local.counters import Counters, ModelLimits
from llmproxy.gateway.limits.local.window import Window

Header = tuple[bytes, bytes]

_Names = tuple[bytes, bytes, bytes]
_REQUESTS: Final = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS: Final = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")
_ANTHROPIC_REQUESTS: Final = (
    b"anthropic-ratelimit-requests-limit",
    b"anthropic-ratelimit-requests-remaining",
    b"anthropic-ratelimit-requests-reset",
)
_ANTHROPIC_TOKENS: Final = (
    b"anthropic-ratelimit-tokens-limit",
    b"anthropic-ratelimit-tokens-remaining",
    b"anthropic-ratelimit-tokens-reset",
)


def headers(counters: Counters, limits: ModelLimits) -> list[Header]:
    """Return OpenAI's lines for a request of *limits*: six, three or none, as it is limited."""
    return _headers(counters, limits, _REQUESTS, _TOKENS, duration)


def anthropic_headers(counters: Counters, limits: ModelLimits, utc_now_s: float) -> list[Header]:
    """Return Anthropic's lines for a request of *limits*: six, three or none, as it is limited."""

    def moment(seconds: float) -> bytes:
        at = datetime.fromtimestamp(math.ceil(utc_now_s + seconds), tz=UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ").encode()

    return _headers(counters, limits, _ANTHROPIC_REQUESTS, _ANTHROPIC_TOKENS, moment)


def _headers(
    counters: Counters, limits: ModelLimits, requests: _Names, tokens: _Names, reset: Callable[[float], bytes]
) -> list[Header]:
    counters.now()
    lines: list[Header] = []
    if limits.requests:
        _add(lines, requests, limits.requests, reset)
    if limits.tokens:
        _add(lines, tokens, limits.tokens, reset)
    return lines


@lru_cache(maxsize=1024)  # of whole buckets: there are not many
def duration(seconds: float) -> bytes:
    """Return *seconds* as OpenAI writes it: `0s`, `12ms`, `1.2s`, `6m0s`; hours as `24h0m0s`."""
    if seconds <= 0:
        return b"0s"
    if seconds < 1:
        return b"%dms" % (seconds * 1000 + 0.999)
    tenths = int(seconds * 10 + 0.999)
    minutes, tenths = divmod(tenths, 600)
    whole, tenth = divmod(tenths, 10)
    tail = b"%d.%ds" % (whole, tenth) if tenth else b"%ds" % whole
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%b" % (hours, minutes, tail)
    return b"%dm%b" % (minutes, tail) if minutes else tail


def _add(lines: list[Header], names: _Names, windows: tuple[Window, ...], reset_of: Callable[[float], bytes]) -> None:
    """Add the lines of the tightest of *windows*, which stand in the order of their resets, the latest first."""
    tightest = windows[0]
    fewest = tightest.remaining()
    for window in windows[1:]:
        remaining = window.remaining()
        if remaining < fewest:
            tightest, fewest = window, remaining
    reset_s = (tightest.empty_from() - tightest.at) * tightest.ticker.width
    lines.append((names[0], b"%d" % tightest.reported_limit))
    lines.append((names[1], b"%d" % (fewest if fewest > 0 else 0)))
    lines.append((names[2], reset_of(reset_s)))
