"""Quantities of memory, disk and CPU in Kubernetes' notation: `512Mi`, `250m`.

Kubernetes stores a quantity in one canonical form. The operator renders that form, so that a live object equals its
manifest.
"""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,3})?([KMGTP]i|[mkMGTP])?$"
MAX_LENGTH = 24

_MILLI = 1000
_KIBI = 1024
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5}
_DECIMAL = {"m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_PARTS = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGTP]i|[mkMGTP]?)")


def value(text: str) -> Decimal:
    """Return *text* in bytes or cores; raise ValueError if it is no quantity."""
    number, suffix = _split(text)
    return number * (Decimal(_KIBI) ** _BINARY[suffix] if suffix in _BINARY else Decimal(_MILLI) ** _DECIMAL[suffix])


def canonical(text: str) -> str:
    """Return *text* as the API server stores it: `1024Mi` as `1Gi`, `0.5` as `500m`, `2000` as `2k`."""
    amount = value(text)
    milli = (amount * _MILLI).to_integral_value(ROUND_CEILING)
    if _split(text)[1] in _BINARY and milli % _MILLI == 0 and amount >= _KIBI:
        return _largest(int(amount), _KIBI, _BINARY)
    if milli % _MILLI:
        return f"{milli}m"
    return _largest(int(amount), _MILLI, {k: v for k, v in _DECIMAL.items() if v > 0})


def _largest(amount: int, base: int, suffixes: dict[str, int]) -> str:
    written, suffix = amount, ""
    for name, power in suffixes.items():
        if amount == 0 or amount % base**power:
            break
        written, suffix = amount // base**power, name
    return f"{written}{suffix}"


def _split(text: str) -> tuple[Decimal, str]:
    if not re.fullmatch(PATTERN[1:-1], text):
        raise ValueError(f"{text!r} is not a quantity such as 512Mi, 250m or 2")
    number, suffix = _PARTS.findall(text)[0]
    return Decimal(number), suffix


def _as_text(raw: object) -> object:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError('must be a string or a whole number: write 500m or "0.5"')  # noqa: TRY004 - pydantic collects ValueError
    return str(raw)


Quantity = Annotated[
    str,
    Field(pattern=PATTERN, max_length=MAX_LENGTH),
    BeforeValidator(_as_text),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": PATTERN, "maxLength": MAX_LENGTH}),
]
"""A field that holds a quantity; whole numbers are accepted and kept as text."""
