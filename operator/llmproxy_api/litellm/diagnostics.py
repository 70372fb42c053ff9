"""Warnings and errors of a conversion, and readers of single values that report to them. Pure."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from llmproxy_api.litellm import settings_table as table
from llmproxy_api.validation import Problem

FROM_ENVIRONMENT = "os.environ/"
MAX_LIMIT = 1_000_000_000
MAX_RETRIES = 10


class Diagnostics:
    """Collects warnings and errors. Values are never repeated in them: they may be credentials."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.warnings: list[Problem] = []
        self.problems: list[Problem] = []

    def warn(self, path: str, text: str) -> None:
        """Report a setting that is ignored or has another meaning here."""
        self.warnings.append(Problem(path, text))

    def refuse(self, path: str, text: str) -> None:
        """Report an error."""
        self.problems.append(Problem(path, text))

    def ignored(self, path: str, text: str) -> None:
        """Report a setting without effect, and the reason."""
        self.warn(path, f"is ignored: {text}")

    def section(self, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """Return the mapping under *name*; an empty one where there is none."""
        value = raw.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.refuse(name, "must be a mapping")
            return {}
        return value

    def unknown(self, path: str, key: str, options: Iterable[str]) -> None:
        """Report an unknown key: an error if it resembles one of *options*, else a warning."""
        close = difflib.get_close_matches(key, list(options), n=1, cutoff=0.85)
        if close:
            self.refuse(path, f"is unknown: did you mean {close[0]}?")
        else:
            self.ignored(path, "it is not a setting that this proxy knows")

    def resolved(self, path: str, value: object) -> object:
        """Return *value*; for `os.environ/NAME` the value of that environment variable."""
        if not isinstance(value, str) or not value.startswith(FROM_ENVIRONMENT):
            return value
        variable = value.removeprefix(FROM_ENVIRONMENT)
        value = self.environment.get(variable)
        if value is None:
            self.refuse(path, f"the environment variable {variable} is not set")
        return value

    def number(self, path: str, value: object) -> float | None:
        """Return *value* as a number; None if it is absent, and for an error."""
        value = self.resolved(path, value)
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return number
        self.refuse(path, "must be a number")
        return None

    def limit(self, path: str, value: object) -> int | None:
        """Return a limit: a whole number of 1 and more."""
        number = self.number(path, value)
        if number is None:
            return None
        if not number.is_integer() or not 1 <= number <= MAX_LIMIT:
            self.refuse(path, f"must be a whole number from 1 to {MAX_LIMIT}: leave it out for no limit")
            return None
        return int(number)

    def limits(self, path: str, raw: Mapping[str, Any]) -> dict[str, int]:
        """Return the limits of *raw* in any of their spellings; two that differ are an error."""
        limits: dict[str, int] = {}
        spelling: dict[str, str] = {}
        for key, field in table.LIMITS.items():
            value = self.limit(f"{path}.{key}", raw.get(key))
            if value is None:
                continue
            if limits.setdefault(field, value) != value:
                self.refuse(f"{path}.{key}", f"says another limit than {path}.{spelling[field]}: keep one of them")
            spelling.setdefault(field, key)
        return limits

    def retries(self, path: str, value: object) -> int | None:
        """Return the number of retries."""
        number = self.number(path, value)
        if number is None:
            return None
        if number < 0 or not number.is_integer():
            self.refuse(path, "must be a whole number of 0 and more")
            return None
        if number > MAX_RETRIES:
            self.warn(path, f"becomes {MAX_RETRIES}, the most there is")
        return min(int(number), MAX_RETRIES)

    def timeout(self, path: str, value: object) -> str | None:
        """Return a duration, from seconds."""
        number = self.number(path, value)
        if number is None:
            return None
        if not 0.001 <= number <= 168 * 3600:  # noqa: PLR2004 - said by the message
            self.refuse(path, "must be seconds, more than 0 and at most a week")
            return None
        return f"{number:.0f}s" if number.is_integer() else f"{number * 1000:.0f}ms"

    def pause(self, path: str, value: object) -> str | None:
        """Return the idle timeout: LiteLLM's `stream_timeout` bounds the time between two chunks."""
        idle = self.timeout(path, value)
        if idle is not None:
            self.warn(path, "becomes timeouts.idle: how long an answer may pause; its first byte has all of timeout")
        return idle
