"""Validation rules in CEL, for the API server, and in Python, for everywhere else.

As in the API server, rules are evaluated only on an object that matches the structural schema.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """A validation rule of one API model."""

    cel: str
    """Empty where the schema itself has the rule, such as a pattern: Python then only has the better message."""
    message: str
    """The fault and what to do, without the name of the field."""
    holds: Callable[[Any], bool]
    field: str = ""
    """Path to the invalid field, `.params.api_key`; empty for the model itself."""
    detail: Callable[[Any], str] | None = None
    """Returns a more exact message than *message*, for Python only."""

    def validation(self) -> dict[str, str]:
        """Return the item of `x-kubernetes-validations`."""
        item = {"rule": self.cel, "message": self.message}
        return item | {"fieldPath": self.field} if self.field else item


def optional_matches(name: str, attribute: str, regex: str, message: str) -> Rule:
    """Return the rule that the field, if set, matches all of *regex*, which must be valid for RE2 and Python."""
    quoted = regex.replace("\\", "\\\\").replace("'", "\\'")
    integral = re.compile(regex)

    def holds(part: object) -> bool:
        text = getattr(part, attribute)
        return text is None or integral.fullmatch(text) is not None

    return Rule(f"!has(self.{name}) || self.{name}.matches('^{quoted}$')", message, holds, f".{name}")
