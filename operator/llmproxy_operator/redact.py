"""Redaction of container output, so that everybody who may read an LLMProxy may read it. Pure.

The proxy's own processes do not write keys. This is a second guard: for a traceback, or a library that does.
"""

import re
from collections.abc import Iterable

MAX_CHARS = 600
"""Bound of the result: the last lines say what went wrong."""
MIN_SECRET_CHARS = 4
"""Redacting shorter contents would make the text unreadable and hide nothing."""
HIDDEN = "[hidden]"

_LOOKS_SECRET = re.compile(
    r"(?i)(?:bearer\s+|basic\s+)[^\s\"',;]+"
    r"|(?:api[-_]?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?(?:bearer\s+|basic\s+)?[^\s\"',;]+"
    r"|\b(?:sk|pk|hf|ghp|xoxb|AIza)[-_A-Za-z0-9]{16,}"
    r"|(?<=://)[^/@\s]+:[^/@\s]+(?=@)"
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the end of *text* without *secrets* and without anything that looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, HIDDEN)
    text = _LOOKS_SECRET.sub(HIDDEN, text).strip()
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    short = "\n".join(lines)
    return short if len(short) <= MAX_CHARS else f"...{short[-MAX_CHARS:]}"
