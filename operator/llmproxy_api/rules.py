"""A rule of the API, written once in two languages: CEL for the API server, Python for everywhere else.

A rule is checked only on an object whose structure is right, as the API server does it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmproxy_api.durations import seconds


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold for one part of the resource."""

    cel: str
    message: str
    """What is wrong and the way out; the field is said by *field*."""
    holds: Callable[[Any], bool]
    field: str = ""
    """Path from the part to the field to blame, `.params.api_key`; empty blames the part itself."""
    tell: Callable[[Any], str] | None = None
    """Says more of the very part than *message* can; used where Python decides."""

    def as_validation(self) -> dict[str, str]:
        """Return the item of `x-kubernetes-validations`."""
        made = {"rule": self.cel, "message": self.message}
        return made | {"fieldPath": self.field} if self.field else made


def optional_matches(name: str, attribute: str, regex: str, message: str) -> Rule:
    """The field, if it is there, matches *regex* from end to end; write it for both RE2 and Python."""
    quoted = regex.replace("\\", "\\\\").replace("'", "\\'")
    whole = re.compile(regex)

    def holds(part: object) -> bool:
        text = getattr(part, attribute)
        return text is None or whole.fullmatch(text) is not None

    return Rule(f"!has(self.{name}) || self.{name}.matches('^{quoted}$')", message, holds, f".{name}")


def longer_than_zero(name: str, attribute: str) -> Rule:
    """The duration, if it is there, is not zero."""
    return Rule(
        f"!has(self.{name}) || duration(self.{name}) > duration('0s')",
        f"{name} must be longer than 0s",
        lambda part: getattr(part, attribute) is None or seconds(getattr(part, attribute)) > 0,
        f".{name}",
    )
