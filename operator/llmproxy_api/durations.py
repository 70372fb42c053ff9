"""Durations in the notation of Go and Kubernetes: `500ms`, `8s`, `1h30m`."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from llmproxy_api.rules import Rule

PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h))+$"
MAX_S = 168 * 3600
"""A week: a longer duration is a typing error."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


def seconds(text: str) -> float:
    """Return *text* in seconds; raise ValueError if it is no duration."""
    if not re.fullmatch(PATTERN[1:-1], text):
        raise ValueError(f"{text!r} is not a duration such as 500ms, 8s or 1h30m")
    return round(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)), 6)


def _bounded(text: str) -> str:
    if seconds(text) > MAX_S:
        raise ValueError("must be at most 168h")
    return text


Duration = Annotated[
    str,
    Field(
        pattern=PATTERN,
        max_length=32,
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": "duration(self) <= duration('168h')", "message": "must be at most 168h"}
            ]
        },
    ),
    AfterValidator(_bounded),
]
"""A field that holds a duration."""


def longer_than_zero(name: str, attribute: str) -> Rule:
    """Return the rule that the duration, if set, is not zero."""
    return Rule(
        f"!has(self.{name}) || duration(self.{name}) > duration('0s')",
        f"{name} must be longer than 0s",
        lambda part: getattr(part, attribute) is None or seconds(getattr(part, attribute)) > 0,
        f".{name}",
    )
