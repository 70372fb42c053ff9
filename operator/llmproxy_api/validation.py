"""The offline verdict on an LLMProxy: what the API server would refuse is refused here, with the field it is about.

Values are never repeated in a message: what stands in the wrong place may be a key.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from llmproxy_api import model_params as params_of
from llmproxy_api.base import ListMap, Part, UniqueItems
from llmproxy_api.models import API_VERSION, KIND, LLMProxy

MAX_PROBLEMS = 10
"""More than these would not be read; the rest is counted."""

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    *("annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers"),
    *("generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences"),
    *("resourceVersion", "selfLink", "uid"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that must be changed."""

    path: str
    """The field in the user's spelling: `spec.models[0].deployments[1].apiKey`."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(Exception):
    """The object cannot be used until its author changes it; `problems` has every reason."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        shown = "; ".join(str(p) for p in problems[:MAX_PROBLEMS])
        more = len(problems) - MAX_PROBLEMS
        super().__init__(f"{shown}; and {more} more" if more > 0 else shown)
        self.problems = problems


def parse(raw: Mapping[str, Any]) -> LLMProxy:
    """Return the LLMProxy that *raw* (a manifest, or an object of the API server) describes; raise SpecError."""
    problems = tuple(_envelope(raw))
    # What the envelope lacks is told already, and must not hide what is wrong in the rest.
    whole = {key: value for key, value in raw.items() if key in {"metadata", "spec"} and isinstance(value, Mapping)}
    try:
        proxy = LLMProxy.model_validate(whole)
    except ValidationError as exc:
        told = {problem.path for problem in problems}
        problems += tuple(problem for problem in _structural(exc) if problem.path not in told)
    if problems:
        raise SpecError(problems)  # without the cause, which repeats values that may be keys
    problems = tuple(_structure(proxy, "")) or tuple(_rules(proxy, ""))
    if problems:
        raise SpecError(problems)
    return proxy


def _envelope(raw: Mapping[str, Any]) -> Iterator[Problem]:
    if raw.get("apiVersion") != API_VERSION:
        yield Problem("apiVersion", f"must be {API_VERSION}")
    if raw.get("kind") != KIND:
        yield Problem("kind", f"must be {KIND}")
    for key in raw:
        if key not in _TOP:
            yield Problem(str(key), _unknown(str(key), _TOP))
    for key in ("metadata", "spec"):
        if key not in raw:
            yield Problem(key, "is required")
        elif not isinstance(raw[key], Mapping):
            yield Problem(key, "must be an object")
    metadata = raw.get("metadata")
    for key in metadata if isinstance(metadata, Mapping) else ():
        if key not in _METADATA:
            yield Problem(f"metadata.{key}", _unknown(str(key), _METADATA))


def _unknown(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"unknown field: did you mean {close[0]}?" if close else f"unknown field: there are {', '.join(known)}"


def _structural(error: ValidationError) -> Iterator[Problem]:
    found = error.errors(include_input=False, include_url=False)
    places = [item["loc"] for item in found]
    for item in found:
        loc = item["loc"]
        if item["type"] == "too_short" and any(p[: len(loc)] == loc and len(p) > len(loc) for p in places):
            continue  # pydantic counts the items that are right; the wrong ones are told already
        yield Problem(_spell(loc), _say(item["type"], item["msg"], loc))


def _say(kind: str, message: str, loc: tuple[int | str, ...]) -> str:
    part = _part_at(loc[:-1])
    if kind == "extra_forbidden" and part is not None:
        return _unknown(str(loc[-1]), _aliases(part))
    if kind == "missing":
        return "is required"
    if kind in {"model_type", "model_attributes_type"}:
        here = _part_at(loc)
        return f"must be an object with {', '.join(_aliases(here))}" if here is not None else "must be an object"
    if kind == "too_short":
        return "must not be empty"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return message.replace("Input should", "must").replace("String should", "must").replace("Tuple should", "must")


def _spell(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _aliases(part: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in part.model_fields.items())


def _part_at(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model of the part at *loc*, None where there is none."""
    here: type[BaseModel] | None = LLMProxy
    for step in loc:
        if here is None:
            return None
        if isinstance(step, int):
            continue
        field = next((f for n, f in here.model_fields.items() if (f.alias or n) == step), None)
        here = _model_in(field.annotation) if field is not None else None
    return here


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg)) is not None), None)


def _children(part: Part) -> Iterator[tuple[str, str, Any]]:
    for name, field in type(part).model_fields.items():
        yield name, field.alias or name, getattr(part, name)


def _structure(part: Part, path: str) -> Iterator[Problem]:
    """What pydantic does not say: repeated keys of list-maps, parameters that are no JSON."""
    for name, alias, value in _children(part):
        here = f"{path}.{alias}" if path else alias
        if isinstance(value, dict):
            yield from _plain_params(value, here)
        field = type(part).model_fields[name]
        for mark in (*field.metadata, *_inner_marks(field.annotation)):
            if isinstance(mark, ListMap | UniqueItems):
                yield from _repeated(value or (), mark.key if isinstance(mark, ListMap) else None, here)
        for child, child_path in _parts(value, here):
            yield from _structure(child, child_path)


def _inner_marks(annotation: object) -> Iterator[object]:
    """Yield what an optional field is marked with: `Annotated[X, mark] | None`."""
    for branch in get_args(annotation):
        yield from getattr(branch, "__metadata__", ())


def _plain_params(value: dict[str, Any], path: str) -> Iterator[Problem]:
    if len(value) > params_of.MAX_KEYS:
        yield Problem(path, f"must have at most {params_of.MAX_KEYS} keys")
    if not params_of.plain(value):
        yield Problem(path, f"must be plain JSON, nested at most {params_of.MAX_DEPTH} deep: quote dates")


def _repeated(items: tuple[Any, ...], key: str | None, path: str) -> Iterator[Problem]:
    seen: set[Any] = set()
    for i, item in enumerate(items):
        value = item if key is None else getattr(item, key)
        if value in seen:
            what = f"{key or 'value'} {value!r}"
            yield Problem(f"{path}[{i}]", f"duplicate {what}: put what belongs to it into one entry")
        seen.add(value)


def _parts(value: object, path: str) -> Iterator[tuple[Part, str]]:
    if isinstance(value, Part):
        yield value, path
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _parts(item, f"{path}[{i}]")


def _rules(part: Part, path: str) -> Iterator[Problem]:
    for rule in part.RULES:
        if not rule.holds(part):
            where = f"{path}{rule.field}" if path else rule.field.removeprefix(".")
            yield Problem(where, rule.message if rule.tell is None else rule.tell(part))
    for _, alias, value in _children(part):
        for child, child_path in _parts(value, f"{path}.{alias}" if path else alias):
            yield from _rules(child, child_path)
