"""Attributes of a span from JSON: flat names, values that a store accepts, bounded sizes. Pure.

A null or a nested value makes the store refuse a whole batch, so neither is produced. A text that is too long is cut
inside its JSON, with a marker: rendered values stay valid JSON.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping

Scalar = str | bool | int | float
Value = Scalar | list[int] | list[str] | list[float] | list[bool]
Attributes = dict[str, Value]

MAX_TEXT = 1 << 20
"""Characters of one text."""
MAX_RENDERED = 4 << 20
"""Characters of a value that is rendered as one string."""
_TIGHTER = (MAX_TEXT, 64 << 10, 1 << 10, 64)
_INT64 = 1 << 63
_DEPTH = 32
"""Depth below which a value is rendered as one string."""


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """Return *text*, shortened to about *limit* characters with a marker; JSON stays JSON."""
    if len(text) <= limit:
        return text
    return _cut_json(text, limit) or f"{text[:limit]} [cut by llmproxy: {limit} of {len(text)} characters]"


def _cut_json(text: str, limit: int) -> str:
    """Return JSON text, such as the arguments of a tool, with its strings cut; empty if *text* is not JSON."""
    if text.lstrip()[:1] not in {"{", "["}:
        return ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    for tighter in (limit // 4, limit // 64, 64):
        shorter = _to_json(_clean(value, min(limit, tighter)))
        if len(shorter) <= limit:
            return shorter
    return _to_json({"cut by llmproxy": len(text)})


def scalar(value: object) -> Scalar | None:
    """Return *value* if an attribute can hold it, else None."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None


def flatten(prefix: str, value: object, target: Attributes, depth: int = 0) -> None:
    """Add *value* to *target* under dotted names, as agentlightning's `flatten_attributes` does."""
    if depth >= _DEPTH:
        target[prefix] = render_json(value)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            flatten(f"{prefix}.{name_part(name)}", item, target, depth + 1)
    elif isinstance(value, list):
        numbers = integers(value)
        if numbers:
            target[prefix] = numbers
        elif value and all(isinstance(item, str) for item in value):
            target[prefix] = [cut(item) for item in value]
        else:
            for i, item in enumerate(value):
                flatten(f"{prefix}.{i}", item, target, depth + 1)
    else:
        put(target, prefix, value)


def put(target: Attributes, name: str, value: object) -> None:
    """Add *value* to *target* if an attribute can hold it."""
    attribute = scalar(value)
    if attribute is not None:
        target[name] = attribute


def put_each(target: Attributes, prefix: str, values: Mapping[str, object], names: Iterable[str]) -> None:
    """Add the *names* of *values* that are scalars or lists of strings, under *prefix*."""
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            target[prefix + name] = [cut(item) for item in value]
        else:
            put(target, prefix + name, value)


def integers(value: object) -> list[int] | None:
    """Return *value* if it is a non-empty list of 64-bit integers, else None."""
    if not isinstance(value, list) or not value:
        return None
    if all(type(item) is int and -_INT64 <= item < _INT64 for item in value):
        return value
    return None


def render_json(value: object) -> str:
    """Return *value* as JSON, with strings cut until it fits MAX_RENDERED."""
    return _render(value, _to_json)


def render_python(value: object) -> str:
    """Return the `repr` of *value*: LiteLLM writes it so, and agentlightning's adapters evaluate it."""
    return _render(value, repr)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _render(value: object, write: Callable[[object], str]) -> str:
    size = 0
    for limit in _TIGHTER:
        text = write(_clean(value, limit))
        size = len(text)
        if size <= MAX_RENDERED:
            return text
    return write({"cut by llmproxy": size})


def _clean(value: object, limit: int, depth: int = 0) -> object:
    if isinstance(value, str):
        return cut(value, limit)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        if depth >= _DEPTH:
            return []
        # Token ids, mostly: nothing in them to look at one by one.
        return value if integers(value) else [_clean(item, limit, depth + 1) for item in value]
    if isinstance(value, dict):  # of JSON, so its keys are texts
        return {cut(k, limit): _clean(v, limit, depth + 1) for k, v in value.items()} if depth < _DEPTH else {}
    return value


def name_part(name: object) -> str:
    """Return a key as one part of a dotted name, its own dots replaced."""
    return cut(str(name), 256).replace(".", "_") or "_"
